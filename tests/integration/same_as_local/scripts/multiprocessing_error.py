import multiprocessing as mp
def fail():
    raise SystemExit(5)
if __name__ == "__main__":
    p = mp.get_context("fork").Process(target=fail)
    p.start(); p.join()
    print(p.exitcode)

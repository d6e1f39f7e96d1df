import multiprocessing as mp
import os

def square(x):
    return x * x

class Point:
    def __init__(self, x):
        self.x = x
    def __repr__(self):
        return f"Point({self.x})"

def make(x):
    return Point(x)

if __name__ == "__main__":
    mp.set_start_method("forkserver")
    print(mp.current_process(), mp.parent_process(), mp.active_children())
    with mp.Pool(2) as pool:
        print(pool.map(square, range(8)), pool.map(make, [1, 2]))
    q = mp.Queue()
    p = mp.Process(target=q.put, args=(Point(3),), name="named")
    p.start()
    print(q.get(), p.name)
    p.join()
    print(p.exitcode)

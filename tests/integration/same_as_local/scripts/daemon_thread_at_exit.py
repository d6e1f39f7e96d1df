import threading

began = threading.Event()


def wait():
    began.set()
    threading.Event().wait()


threading.Thread(target=wait, daemon=True).start()
began.wait()
print("end")

import threading, time
def work():
    time.sleep(0.1)
    print("finished before the end")
threading.Thread(target=work).start()
print("main ends")

import threading
print(type(threading.current_thread()).__name__, threading.current_thread().name, threading.main_thread() is threading.current_thread(), threading.active_count(), [t.name for t in threading.enumerate()])
results = []
ts = [threading.Thread(target=results.append, args=(i,)) for i in range(5)]
[t.start() for t in ts]; [t.join() for t in ts]
print(sorted(results), ts[0].name)

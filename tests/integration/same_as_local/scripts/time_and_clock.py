import time
print(time.tzname, time.perf_counter() > 0, time.strftime("%Y", time.gmtime(0)))

import resource, time
u = resource.getrusage(resource.RUSAGE_SELF)
print(u.ru_utime + u.ru_stime < 20, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.process_time() < 20)

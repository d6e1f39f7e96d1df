import atexit
atexit.register(print, "first registered")
atexit.register(print, "second registered")
@atexit.register
def fail():
    raise ValueError("at exit")
print("body")

import sys
m = sys.modules["__main__"]
print(__name__, m.__dict__ is globals(), sorted(k for k in globals()), __spec__, __package__, __doc__, type(__loader__).__name__, __cached__ if "__cached__" in globals() else None)

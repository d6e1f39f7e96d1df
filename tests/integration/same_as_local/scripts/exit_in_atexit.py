import atexit
import sys


def late():
    print("late")
    sys.exit(3)


atexit.register(late)
print("end")

import traceback
def f():
    raise ValueError("shown with its line")
try:
    f()
except ValueError:
    print(traceback.format_exc())

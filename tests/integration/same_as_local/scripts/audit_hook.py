import sys

sys.addaudithook(lambda event, _arguments: event.startswith(("gc.", "ctypes.")) and print(event))
print("end")

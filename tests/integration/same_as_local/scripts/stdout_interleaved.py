import os, sys
print("a", end="")
os.write(1, b"b")
sys.stdout.buffer.write(b"c")
print("d")
print("e", file=sys.stderr)

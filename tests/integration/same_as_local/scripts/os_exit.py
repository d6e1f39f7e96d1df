import os, sys
sys.stdout.write("flushed, being unbuffered")
print("x")
os._exit(9)

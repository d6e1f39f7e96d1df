import os, signal
print("going", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()

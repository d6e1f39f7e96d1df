import subprocess, sys
print("parent", flush=True)
subprocess.run([sys.executable, "-c", "print('child')"])
print("parent again")

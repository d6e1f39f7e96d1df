import sys, zipfile, subprocess
with zipfile.ZipFile("app.zip", "w") as z:
    z.writestr("__main__.py", "print('from zip', __name__)")
    z.writestr("lib.py", "X = 4")
sys.path.insert(0, "app.zip")
import lib
print(lib.X, flush=True)
subprocess.run([sys.executable, "app.zip"])
import os
os.remove("app.zip")

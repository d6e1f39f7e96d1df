import subprocess, sys
done = subprocess.run([sys.executable, "-c", "import sys; print(sys.argv); sys.exit(3)", "x"], capture_output=True, text=True)
print(done.args[1:], done.returncode, done.stdout, done.stderr)

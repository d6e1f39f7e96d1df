import subprocess
print(subprocess.run(["sh", "-c", "yes | head -n 1"], capture_output=True).stdout)

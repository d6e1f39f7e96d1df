import os, subprocess, sys
print(subprocess.check_output([sys.executable, "-c", "import os; print(sorted(k for k in os.environ if k not in ('LC_CTYPE',)))"], text=True) == str(sorted(k for k in os.environ if k != "LC_CTYPE")) + "\n")

import subprocess
print(subprocess.check_output("echo $0 $((2+3)); pwd | wc -l", shell=True, text=True))

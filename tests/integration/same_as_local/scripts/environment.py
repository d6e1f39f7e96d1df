import os
print(os.environ.get("PYTHONPATH"), [k for k in os.environ if "HOLDER" in k or "CHANNEL" in k], os.environ["HOME"] == os.path.expanduser("~"))
os.environ["SET_HERE"] = "1"
import subprocess
print(subprocess.check_output(["sh", "-c", "echo $SET_HERE $GIVEN"], text=True), os.environ["GIVEN"], os.getenv("GIVEN"), os.environb[b"GIVEN"])

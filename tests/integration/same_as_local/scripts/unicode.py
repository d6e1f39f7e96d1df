print("ä ö 漢字 🎉")
import sys
print("stderr ü", file=sys.stderr)
name = "grüße"
print(name.encode())

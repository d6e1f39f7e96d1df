import sys
for i in range(5):
    print("o", i)
    print("e", i, file=sys.stderr)

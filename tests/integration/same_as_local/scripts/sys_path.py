import sys, os
print(sys.path[0] == os.getcwd(), len(sys.path), [os.path.basename(p) for p in sys.path[1:]])

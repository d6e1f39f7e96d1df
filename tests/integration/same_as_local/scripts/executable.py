import sys, os
print(os.path.basename(sys.executable), sys.prefix != sys.base_prefix, os.path.dirname(os.path.dirname(sys.executable)) == sys.prefix, sys.version)

import random
import sys
print(random.MINE, sys.modules["random"].__file__.endswith("/work/random.py") or True)

import json
import logging, random
from concurrent.futures import ThreadPoolExecutor
import sys
print(sorted(sys.modules))

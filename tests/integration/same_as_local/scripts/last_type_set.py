import sys

sys.last_type = ValueError
raise SystemExit(5)

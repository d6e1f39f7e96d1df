try:
    raise ValueError("first")
finally:
    raise SystemExit(4)

import argparse
p = argparse.ArgumentParser()
p.add_argument("--n", type=int)
p.add_argument("rest", nargs="*")
print(p.parse_args())
p.parse_args(["--n", "x"])

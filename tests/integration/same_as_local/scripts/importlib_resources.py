import importlib.resources as r
print(r.files("package").joinpath("data.txt").read_text())

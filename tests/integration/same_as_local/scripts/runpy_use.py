import runpy, pathlib
pathlib.Path("other.py").write_text("print(__name__, __file__)\nvalue = 3\n")
print(runpy.run_path("other.py", run_name="asked")["value"])
print(runpy.run_path("other.py")["__name__"])

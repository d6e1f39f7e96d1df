import inspect
def f(x):
    # a comment
    return x + 1
print(inspect.getsource(f), inspect.getsourcefile(f) == __file__, inspect.getmodule(f).__name__)

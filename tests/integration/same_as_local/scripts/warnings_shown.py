import warnings
warnings.warn("look", UserWarning)
warnings.warn("old", DeprecationWarning)
warnings.warn("quiet", PendingDeprecationWarning)
def f():
    warnings.warn("up", stacklevel=2)
f()
f()
print(len(warnings.filters), warnings.filters[:2])

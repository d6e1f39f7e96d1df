import beside
from package import inner
from package.inner import VALUE
print(beside.NAME, beside.__file__.endswith("beside.py"), inner.__name__, VALUE, inner.sibling())

from __future__ import annotations
import typing
class A:
    b: "B"
class B: ...
print(typing.get_type_hints(A))

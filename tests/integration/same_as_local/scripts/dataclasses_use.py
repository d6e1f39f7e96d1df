from __future__ import annotations
from dataclasses import dataclass, field, asdict
import typing
@dataclass(order=True)
class P:
    x: int
    y: list[int] = field(default_factory=list)
print(P(1), asdict(P(2, [3])), P(1) < P(2), typing.get_type_hints(P), P.__module__)

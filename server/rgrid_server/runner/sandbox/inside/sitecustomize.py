"""What an interpreter loads at its start when it is to be a holder (holder/ says what that is).

It hides itself: a script's interpreter goes on from here as if this module had never been.
"""

import sys

_before = set(sys.modules) - {__name__}

# what was there before it is to be known
from holder import serving  # type: ignore[import-not-found]  # noqa: E402

serving.serve(_before)
if sys.modules.get(__name__) is None or getattr(sys.modules[__name__], "__file__", None) == __file__:
    # the interpreter has no module of this name of its own, and this is how it would have found out
    raise ImportError(name=__name__)

"""``python -m rgrid_server``: the same as ``rgrid server``."""

import gc
import sys

# all that is imported stays: to look through it for garbage again and again is a tenth of a start
gc.disable()
from rgrid_server.cli import main  # noqa: E402

gc.enable()

sys.exit(main())

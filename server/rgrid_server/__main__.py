"""``python -m rgrid_server``: the same as ``rgrid server``."""

import sys

from rgrid_server.cli import main

sys.exit(main())

"""Run another benchmark on a PostgreSQL of its own: `on_postgres.py lists.py --rows 1000000`.

The cluster is made for the run, on this machine, with fsync on, and is gone afterwards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.postgres import PostgresCluster


def main(arguments: list[str]) -> int:
    """Run it; returns its exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    program, *options = arguments
    with PostgresCluster() as cluster:
        url = cluster.create_database()
        command = [sys.executable, str(Path(__file__).with_name(program)), "--database-url", url, *options]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

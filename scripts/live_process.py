"""A server of a script's own: started on a fresh directory, stopped with its runner."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.airflow_home import AirflowHome
from tests.live import ROOT, LiveServer

__all__ = ["ROOT", "AirflowHome", "LiveServer"]

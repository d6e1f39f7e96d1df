"""The RGrid server: schedules, executes, caches and bills; everything behind the HTTP API."""

from rgrid._version import __version__

__all__ = ["__version__"]

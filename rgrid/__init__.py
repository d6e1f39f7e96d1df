"""RGrid: run a Python script on a grid as simply as on your own machine."""

from rgrid._version import __version__

__all__ = ["__version__"]

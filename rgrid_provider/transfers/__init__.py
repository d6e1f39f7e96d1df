"""Operators that carry data between RGrid and other systems."""

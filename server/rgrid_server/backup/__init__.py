"""Copies of all data, taken while the server runs, and their way back."""

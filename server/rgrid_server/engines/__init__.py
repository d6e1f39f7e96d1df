"""On which machine attempts are carried."""

"""Usage to charge to statement, and budgets."""

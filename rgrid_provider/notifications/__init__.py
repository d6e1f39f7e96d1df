"""Notifiers of RGrid: what a run cost, and when the budget is used up."""

"""Carrying attempts on one machine: environment, workspace, sandbox, logs, outputs. HTTP only, never SQL."""

"""How the server and its runners are seen from outside: metrics, logs, traces, and whether it is ready."""

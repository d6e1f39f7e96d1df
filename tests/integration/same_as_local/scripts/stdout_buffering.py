import sys
print(sys.stdout.line_buffering, sys.stdout.write_through, sys.stdout.encoding, sys.stdout.errors, sys.stdout.isatty(), sys.stdout.name, sys.stdout.mode, sys.stdout.newlines)
print(type(sys.stdout.buffer).__name__, sys.stderr.line_buffering, sys.stderr.encoding, sys.stderr.errors, sys.stderr.write_through)

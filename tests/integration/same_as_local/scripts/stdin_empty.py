import sys
print(repr(sys.stdin.read()), sys.stdin.isatty(), sys.stdin.fileno(), sys.stdin.encoding)
try:
    input("? ")
except EOFError as error:
    print(error)

import sys
sys.stdout.buffer.write(bytes(range(256)) * 3)
sys.stdout.buffer.write(b"\r\n\xff")

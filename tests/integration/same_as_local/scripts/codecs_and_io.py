import io, codecs
print(codecs.lookup("utf-8").name, io.text_encoding(None), io.DEFAULT_BUFFER_SIZE)
with open("t.txt", "w") as f:
    print(f.encoding, f.errors, f.line_buffering)
import os
os.remove("t.txt")

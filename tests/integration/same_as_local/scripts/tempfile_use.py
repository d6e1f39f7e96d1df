import tempfile, os
print(tempfile.gettempdir() == os.environ.get("TMPDIR"))
with tempfile.NamedTemporaryFile("w+") as f:
    f.write("x"); f.flush()
    print(os.path.getsize(f.name))
with tempfile.TemporaryDirectory() as d:
    print(os.listdir(d))

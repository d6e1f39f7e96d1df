import os
os.makedirs("out/deep")
open("out/deep/a.bin", "wb").write(bytes(range(10)))
open("b.txt", "w").write("x\n" * 3)
os.chmod("b.txt", 0o755)
open("input.txt", "a").write("more")
os.remove("data.csv")

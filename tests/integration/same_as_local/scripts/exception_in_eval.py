eval("1 +\n 2 / 0")

print("printed?")
exec("a b")

import os
print(sorted(os.listdir(".")), os.getcwd() == os.path.realpath("."))

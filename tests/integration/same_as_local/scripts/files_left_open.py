import json

mine = open("mine.txt", "w")
mine.write("written and not flushed")
json.left = open("in_a_library.txt", "wb")
json.left.write(b"hangs on a module of the library")
with open("closed.txt", "w") as closed:
    closed.write("closed")

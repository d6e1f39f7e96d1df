import json


class Node:
    def __init__(self, name):
        self.name = name
        self.itself = self

    def __del__(self):
        print("gone:", self.name)


json.kept = Node("hangs on a module of the library")
Node("hangs on nothing")
print("end")

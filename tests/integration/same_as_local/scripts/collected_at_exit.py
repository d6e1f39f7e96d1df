import json


class Node:
    def __init__(self, name):
        self.name, self.me = name, self

    def __del__(self):
        print("ended", self.name)


in_a_cycle = Node("in a cycle")
handlers = {"f": lambda: in_a_cycle}
print(json.dumps(sorted(handlers)))

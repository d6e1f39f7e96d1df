import pickle
class A:
    def __init__(self, v):
        self.v = v
data = pickle.dumps(A([1, 2]))
print(b"__main__" in data, pickle.loads(data).v, A.__module__, A.__qualname__)

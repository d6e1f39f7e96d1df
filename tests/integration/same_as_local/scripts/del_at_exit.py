class A:
    def __del__(self):
        print("deleted at exit")
keep = A()
print("end")

class Small:
    __slots__ = ()

    def __del__(self):
        print("a small one goes")


kept = Small()
print("end")

import weakref


class Thing:
    pass


def told(_reference):
    print("the thing went")


thing = Thing()
reference = weakref.ref(thing, told)
builtin = Thing()
printed = weakref.ref(builtin, lambda _: print("and so did the other"))
print("end")

import gc
print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.get_debug())
class A: pass
a = A(); a.a = a; del a
print(gc.collect() >= 1)

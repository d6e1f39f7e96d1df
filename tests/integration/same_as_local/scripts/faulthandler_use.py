import faulthandler, sys
print(faulthandler.is_enabled())
faulthandler.dump_traceback(file=sys.stdout)

import sys
print(sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, sys.unraisablehook is sys.__unraisablehook__, sys.getswitchinterval(), sys.getdlopenflags(), hasattr(sys, "last_value"), sys.exc_info(), hasattr(sys, "ps1"))

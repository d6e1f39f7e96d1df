import locale, sys
print(locale.getlocale(), locale.getpreferredencoding(), sys.getfilesystemencoding(), sys.getdefaultencoding(), locale.setlocale(locale.LC_ALL))
print(f"{1234567.891:n}")

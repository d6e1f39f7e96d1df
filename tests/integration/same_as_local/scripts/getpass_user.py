import pwd, os, getpass
print(bool(pwd.getpwuid(os.getuid()).pw_name), bool(getpass.getuser()), os.path.expanduser("~") == os.environ["HOME"])

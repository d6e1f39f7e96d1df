import os, stat
print([stat.S_ISFIFO(os.fstat(n).st_mode) for n in (1, 2)], os.get_inheritable(1), os.get_blocking(1))

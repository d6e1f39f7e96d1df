import os
pid = os.fork()
if pid == 0:
    print("child", flush=True)
    os._exit(3)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))

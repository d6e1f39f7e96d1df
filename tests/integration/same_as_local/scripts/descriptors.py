import os
print([n for n in range(64) if os.path.exists(f"/proc/self/fd/{n}")])

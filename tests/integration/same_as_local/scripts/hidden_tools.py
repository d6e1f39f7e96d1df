import sys
print([m for m in sys.modules if m.partition(".")[0] == "holder"], [p for p in sys.path if "holder" in p or "inside" in p], [k for k in sys.path_importer_cache if "inside" in k or "holder" in k or "ctypes" in k], sys.meta_path, len(sys.path_hooks))

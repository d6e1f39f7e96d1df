import site, sys
print(site.ENABLE_USER_SITE, len(site.PREFIXES), "sitecustomize" in sys.modules, "usercustomize" in sys.modules)

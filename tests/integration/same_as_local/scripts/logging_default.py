import logging
logging.warning("to stderr")
logging.info("not shown")
logging.getLogger("a.b").error("named %s", 3)
print(logging.getLogger().handlers, logging.root.level)

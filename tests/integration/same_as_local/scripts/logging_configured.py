import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(process)d %(threadName)s %(module)s %(lineno)d %(message)s".replace("%(process)d ", ""), level=logging.DEBUG)
logging.debug("x")
try:
    1/0
except ZeroDivisionError:
    logging.exception("failed")

import xml
try:
    xml.etree
except AttributeError as error:
    print(error)
import importlib
try:
    importlib.resources.files
    print("there")
except AttributeError as error:
    print(error)

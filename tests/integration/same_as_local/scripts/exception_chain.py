try:
    {}["a"]
except KeyError as error:
    raise RuntimeError("outer") from error

class Broken(Exception):
    def __str__(self):
        raise ValueError
raise Broken

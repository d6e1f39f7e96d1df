class Strange(Exception):
    def __str__(self):
        return "strange: " + repr(self.args)
raise Strange(1, "ü")

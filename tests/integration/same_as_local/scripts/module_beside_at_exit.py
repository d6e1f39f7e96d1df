import beside


class Late:
    def __init__(self, text):
        self.text = text

    def __del__(self):
        print(self.text)


beside.late = Late("a module beside the script went")
print("end")

import sys

sys.setprofile(lambda frame, event, _argument: event == "call" and print(event, frame.f_code.co_name))


def last():
    print("end")


last()

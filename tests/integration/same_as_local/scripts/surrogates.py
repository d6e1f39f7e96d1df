import sys
sys.stdout.write("bad \udc80\n")

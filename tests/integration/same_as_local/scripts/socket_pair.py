import socket
a, b = socket.socketpair()
a.send(b"hello")
print(b.recv(10))
s = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(s.getsockname())
print(c.getpeername()[0])

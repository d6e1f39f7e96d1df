import sqlite3

connection = sqlite3.connect("left.db")
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE t (a)")
connection.execute("INSERT INTO t VALUES (1)")
connection.commit()
print("end")

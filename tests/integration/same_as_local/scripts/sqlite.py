import sqlite3
c = sqlite3.connect("made.db")
c.execute("create table t (x)")
c.executemany("insert into t values (?)", [(i,) for i in range(5)])
c.commit()
print(c.execute("select sum(x) from t").fetchone())
c.close()
import os
os.remove("made.db")

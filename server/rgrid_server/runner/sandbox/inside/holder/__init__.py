"""The process that holds one script at a time, with everything that the script starts; inside the sandbox.

It is an interpreter that stops half-way through its own start: after ``site``, before it opens the script it
was started for (sitecustomize.py brings it here). For each run it forks. A *warm* child returns from here and
goes on with its start, so that it is ``python script.py`` in every respect, with the imports that the parent
made already done. A *cold* child executes a program, whichever it is.

In a namespace of its own it is process 1: what a script leaves behind becomes its child, nothing inside can
kill it, and when it goes away, so does everything. Elsewhere it is a child subreaper (prctl(2)).

serving      its life: the imports, then one run after the other
channel      the socket to its runner
confinement  what it has the kernel refuse to itself
preloading   the imports that it makes before its scripts
run          a script from its start until nothing of it is left
child        the child's side of the fork
ending       how a warm child's interpreter ends
processes    processes and their children; the runner's as well

In a sandbox this package stands alone, so its modules know each other by relative names. All of it runs under
every Python that scripts may ask for, back to 3.8, and imports nothing that a script could miss or find
already there: what it needs is taken out of ``sys.modules`` again.
"""

"""The process that holds one script at a time, with everything that the script starts; inside the sandbox.

It is an interpreter that stops half-way through its own start: after ``site``, before it opens the script it
was started for (sitecustomize.py brings it here). For each run it forks. A *warm* child returns from here and
goes on with its start, so that it is ``python script.py`` in every respect, with the imports that the parent
made already done. A *cold* child executes a program, whichever it is.

In a namespace of its own it is process 1: what a script leaves behind becomes its child, nothing inside can
kill it, and when it goes away, so does everything. Elsewhere it is a child subreaper (prctl(2)).

Requests come over a socket, each a 4-byte length and a marshalled dict: ``run`` with two descriptors beside
it, ``cancel``, ``kill``. Each run gets one answer: a 4-byte length and a line of text, which is all that a
runner ever reads of what a script may have got hold of.

This file runs under every Python that scripts may ask for, back to 3.8, and imports nothing that a script
could miss or find already there: what it needs is taken out of ``sys.modules`` again.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import errno
import gc
import marshal
import os
import resource
import select
import struct
import sys
import time

import _socket
import ending  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # it takes long to import, and no annotation is looked at
    from typing import Any

CHANNEL_VARIABLE = "RGRID_HOLDER_CHANNEL"
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
PR_SET_CHILD_SUBREAPER = 36
PIDFD_OPEN = 434
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446
SCOPE_ABSTRACT_UNIX_SOCKET = 1
PAGE_KIB = resource.getpagesize() // 1024
SAMPLE_SECONDS = 0.05
FIRST_SAMPLE_SECONDS = 0.01
KILL_AGAIN_SECONDS = 0.005
SPAWN_FAILED = 127
OUTER_MEMORY_BYTES = 4 * 1024**3
CLEARED = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108
"""What scripts can write to beside their workspaces, where they are no links into these."""

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl


def serve(before: set[str]) -> None:
    """Serve runs until the socket ends; returns only in a warm child.

    Args:
        before: the modules that the interpreter had loaded when it came here.
    """
    try:
        channel = connect(os.environ.pop(CHANNEL_VARIABLE))
        holder = Holder(channel)
        hide(before)
        order = receive(channel)
        if order is not None:
            holder.begin(order[0])
            while holder.take_one():
                pass
            if holder.is_script:
                return
    except BaseException as error:
        # whoever started it reads this
        os.write(2, f"the holder failed: {error!r}\n".encode())
        os._exit(1)
    os._exit(0)


def connect(place: str) -> _socket.socket:
    """The channel to the runner: a descriptor that was passed on, or a path where it listens."""
    if place.startswith("/"):
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        channel.connect(place)
    else:
        channel = _socket.socket(fileno=int(place))
    os.set_inheritable(channel.fileno(), False)
    return channel


def _set_call_filter(program: bytes) -> None:
    """Have the kernel refuse what a filter refuses, for this process and all that it starts (seccomp(2))."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: so many instructions of eight bytes, and where they are
    filter_ = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    if _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system call filter cannot be set")


def _keep_to_own_sockets() -> None:
    """Let nothing here connect to abstract sockets of others (landlock(7)), where the kernel can do that.

    Linux can from 6.12 on. These sockets belong to the network, and have no file that could be hidden.
    """
    # struct landlock_ruleset_attr: no access to files or ports is ruled on, only what is scoped
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, SCOPE_ABSTRACT_UNIX_SOCKET))
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, attributes, 24, 0)
    if ruleset >= 0:
        _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def _heed_signals() -> None:
    """Block and ignore none, whatever the runner was started with: nohup and a shell's ``&`` ignore some."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for number in range(1, _signal.NSIG):
        # Python ignores these two itself
        if number not in (_signal.SIGPIPE, _signal.SIGXFSZ) and _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)


def hide(before: set[str]) -> None:
    """Take every trace of this program out of what a script may look at."""
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != own]
    sys.path_importer_cache.pop(own, None)
    os.environ.pop("PYTHONPATH", None)
    for name in set(sys.modules) - before - {"sitecustomize"}:
        del sys.modules[name]
    mine = sys.modules.pop("sitecustomize")
    try:
        __import__("sitecustomize")
    except ImportError:
        sys.modules["sitecustomize"] = mine


class Holder:
    """One holder: what it has imported, and the run that it carries."""

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.is_script = False
        self.is_first_in_namespace = os.getpid() == 1
        self.loaded: set[str] = set()
        self.ending = ending.Ending()
        self.cleared: dict[str, set[str]] = {}
        if self.is_first_in_namespace:
            for place in CLEARED:
                if os.path.isdir(place):
                    self._note(place, os.stat(place).st_dev)
        _heed_signals()
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            # these are the runner's to act on; it ends us by closing the socket
            _signal.signal(number, _signal.SIG_IGN)
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # what is of this user inside may neither trace it nor write into its memory
        _prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)

    def begin(self, order: dict[str, Any]) -> None:
        """Import what scripts will import, and say what came of it."""
        if order["call_filter"]:
            _set_call_filter(order["call_filter"])
        if self.is_first_in_namespace:
            _keep_to_own_sockets()
        before = set(sys.modules)
        probe = self.ending.probe()
        fault = self._import(order["imports"])
        self.ending.heed(probe)
        if fault is not None:
            send(self.channel, fault)
            os._exit(0)
        self.loaded = set(sys.modules)
        self.ending.note_loaded(self.loaded)
        gc.collect()
        # shared pages stay shared for as long as no collection writes to them: the one at a script's end
        # would copy all that pandas is made of, which takes longer than most scripts
        gc.freeze()
        names = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
        send(self.channel, "ready " + " ".join(names))

    def _import(self, statements: list[tuple[str, tuple[str, ...]]]) -> str | None:
        """Make imports as a script's first lines make them; returns which of them is not to be made here."""
        if not statements:
            return None
        asked = Asked(os.environ)
        printed = _printed_file()
        descriptors = _descriptors()
        for index, (name, names) in enumerate(statements):
            try:
                scope = {"__name__": "__main__", "__builtins__": __builtins__}
                os.environ.__class__ = asked.watching
                try:
                    __import__(name, scope, scope, names, 0)
                finally:
                    os.environ.__class__ = asked.plain
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException as error:
                return f"unfit {index} it failed with {type(error).__name__}"
            if os.lseek(printed, 0, os.SEEK_END):
                return f"unfit {index} it printed or warned"
            more = _descriptors() - descriptors
            if more:
                return f"unfit {index} it left a descriptor open"
            # forking once shows which threads see to forks themselves, as those of OpenBLAS do
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            if ending.has_threads():
                return f"unfit {index} it started a thread"
        os.close(printed)
        send(self.channel, "asked " + " ".join(sorted(asked.names)))
        return None

    def take_one(self) -> bool:
        """Carry one run; returns whether there may be another."""
        received = receive(self.channel)
        if received is None:
            return False
        message, descriptors = received
        if "run" not in message:
            # it came too late for its run
            return True
        run = Run(self, message["run"], descriptors)
        answer = run.carry()
        if run.is_script:
            self.is_script = True
            return False
        if answer is None:
            return False
        problem = self._renew() if self.is_first_in_namespace else None
        send(self.channel, f"{answer}\n{problem or ''}")
        return True

    def _note(self, directory: str, device: int) -> None:
        """Note what stands in a directory before any script has run: paths to what is mounted below it."""
        if os.path.islink(directory) or os.stat(directory).st_dev != device:
            return
        names = set(os.listdir(directory))
        self.cleared[directory] = names
        for name in names:
            self._note(directory + "/" + name, device)

    def _renew(self) -> str | None:
        """Leave to the next script nothing that outlives processes; returns what could not be removed."""
        try:
            for directory, kept in self.cleared.items():
                for name in set(os.listdir(directory)) - kept:
                    path = directory + "/" + name
                    if os.path.isdir(path) and not os.path.islink(path):
                        return path
                    os.unlink(path)
            for kind in ("shm", "sem", "msg"):
                with open(f"/proc/sysvipc/{kind}", "rb") as file:
                    if len(file.read().splitlines()) > 1:
                        return f"a System V {kind}"
        except OSError as error:
            return str(error)
        return None


class Asked:
    """Watches which environment variables an import asks for: it may do other things where they are set."""

    def __init__(self, plain: Any) -> None:
        self.names: set[str] = set()
        self.plain = type(plain)
        names = self.names

        class Watching(self.plain):  # type: ignore[misc, name-defined]
            def __getitem__(self, key: Any) -> Any:
                names.add(key if isinstance(key, str) else "*")
                return super().__getitem__(key)

            def __contains__(self, key: Any) -> bool:
                names.add(key if isinstance(key, str) else "*")
                return bool(super().__contains__(key))

            def __iter__(self) -> Any:
                names.add("*")
                return super().__iter__()

        self.watching = Watching


class Run:
    """One script from its start until nothing of it is left."""

    def __init__(self, holder: Holder, command: dict[str, Any], descriptors: list[int]) -> None:
        self.holder = holder
        self.command = command
        self.descriptors = descriptors
        self.is_script = False
        self.pid = 0
        self.pidfd = -1
        self.cpu_seconds = 0.0
        self.peak_kib = 0
        self.status: int | None = None
        self.ended: str | None = None
        self.kill_at: float | None = None

    def carry(self) -> str | None:
        """Start it, watch it, and end what it leaves; None when the runner went away, or in the script."""
        started = time.monotonic()
        errors = self._start()
        if self.is_script:
            return None
        for descriptor in self.descriptors:
            os.close(descriptor)
        runner_is_there = self._watch(started + self.command["timeout_ms"] / 1000)
        duration = time.monotonic() - started
        self._end_all()
        failed = os.read(errors, 500)
        os.close(errors)
        if not runner_is_there:
            return None
        if failed:
            return "failed " + failed.decode()
        status = self.status or 0
        was_signaled = os.WIFSIGNALED(status)
        code = os.WTERMSIG(status) if was_signaled else os.WEXITSTATUS(status)
        ended = self.ended or ("signaled" if was_signaled else "exited")
        peak_mib = -(-self.peak_kib // 1024)
        duration_ms, cpu_ms = round(duration * 1000), round(self.cpu_seconds * 1000)
        return f"{ended} {code} {int(was_signaled)} {duration_ms} {cpu_ms} {peak_mib}"

    def _start(self) -> int:
        """Fork; returns where an error of the child's can be read once it has ended."""
        errors_read, errors_write = os.pipe()
        holder = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(holder)
                if not self.command["warm"]:
                    argv = self.command["argv"]
                    os.execve(argv[0], argv, self.command["environment"])  # noqa: S606
                os.closerange(3, max(errors_write, *self.descriptors) + 1)
                self.is_script = True
            except BaseException as error:
                what = getattr(error, "strerror", None) or repr(error)
                os.write(errors_write, f"{self.command['argv'][0]}: {what}".encode()[:500])
                os._exit(SPAWN_FAILED)
            return -1
        os.close(errors_write)
        self.pid = pid
        self.pidfd = _libc.syscall(PIDFD_OPEN, pid, 0)
        return errors_read

    def _become(self, holder: int) -> None:
        """In the child: what a script's process has of its own."""
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
        if not self.holder.is_first_in_namespace and os.getppid() != holder:
            os._exit(SPAWN_FAILED)
        _prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        memory_bytes = self.command["memory_mib"] * 1024 * 1024
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, self.command["max_file_bytes"])
        # far outside of what is watched: it stops what would grow faster than the watch can look
        _limit(resource.RLIMIT_DATA, 4 * memory_bytes + OUTER_MEMORY_BYTES)
        if self.command["max_processes"]:
            _limit(resource.RLIMIT_NPROC, self.command["max_processes"])
        os.umask(0o022)
        os.chdir(self.command["directory"])
        os.dup2(self.descriptors[0], 1)
        os.dup2(self.descriptors[1], 2)
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_DFL)
        if self.command["warm"]:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            self._become_warm()
        else:
            # Python ignores two of these at its start, and what is ignored stays so through exec
            for number in (_signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)

    def _become_warm(self) -> None:
        """What an interpreter has that was started for this script alone."""
        argv = self.command["argv"]
        sys.argv[1:] = argv[2:]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[1:] = argv[1:]
        os.environ.clear()
        os.environ.update(self.command["environment"])
        for name in set(sys.modules) - self.holder.loaded:
            # os.wait4() loads one
            del sys.modules[name]
        if self.command["watches"]:
            gc.unfreeze()
            self.holder.ending.forbid()
        else:
            # the script's own objects are to be collected at its end, with the module that they hang on
            main = type(sys)("__main__")
            main.__dict__.clear()
            main.__dict__.update(sys.modules["__main__"].__dict__)
            sys.modules["__main__"] = main
            self.holder.ending.allow()
        _start_anew()

    def _watch(self, deadline: float) -> bool:
        """Until the script itself has ended; returns whether the runner is still there."""
        channel = self.holder.channel.fileno()
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if self.pidfd >= 0:
            poll.register(self.pidfd, select.POLLIN)
        sample = FIRST_SAMPLE_SECONDS
        try:
            while True:
                due = (deadline if self.kill_at is None else self.kill_at) - time.monotonic()
                # once killed it ends soon; it is killed again until it has
                wait = min(sample, max(KILL_AGAIN_SECONDS if self.kill_at is not None else 0.0, due))
                readable = [descriptor for descriptor, _ in poll.poll(max(0, wait * 1000))]
                sample = min(SAMPLE_SECONDS, sample * 2)
                self._reap()
                if self.status is not None:
                    return True
                if channel in readable:
                    received = receive(self.holder.channel)
                    if received is None:
                        return False
                    if received[0].get("cancel"):
                        self._stop("canceled", self.command["grace_ms"])
                    elif received[0].get("kill"):
                        self._stop("canceled", 0)
                now = time.monotonic()
                if self.kill_at is None and now >= deadline:
                    self._stop("timed_out", self.command["grace_ms"])
                if self._look_at_memory() > self.command["memory_mib"] * 1024:
                    self._stop("out_of_memory", 0)
                if self.kill_at is not None and now >= self.kill_at:
                    self._signal_all(_signal.SIGKILL)
        finally:
            if self.pidfd >= 0:
                os.close(self.pidfd)

    def _stop(self, why: str, grace_ms: int) -> None:
        """End it for a reason; the first reason stands, the nearest end does."""
        kill_at = time.monotonic() + grace_ms / 1000
        if self.ended is None and grace_ms:
            self._signal_all(_signal.SIGTERM)
        self.ended = self.ended or why
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        if not grace_ms:
            self._signal_all(_signal.SIGKILL)

    def _look_at_memory(self) -> int:
        """What all of it holds now, in KiB."""
        used_kib = 0
        for pid in self._members():
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:
                    fields = file.read().split()
            except OSError:
                continue
            # without what is shared, so that a pool of workers is not counted many times over
            used_kib += (int(fields[1]) - int(fields[2])) * PAGE_KIB
        self.peak_kib = max(self.peak_kib, used_kib)
        return used_kib

    def _members(self) -> list[int]:
        if self.holder.is_first_in_namespace:
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        return descendants()

    def _reap(self) -> bool:
        """Take in what has ended; returns whether there is any process left."""
        while True:
            try:
                reaped, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if reaped == 0:
                return True
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            if reaped == self.pid:
                self.status = status
                self.peak_kib = max(self.peak_kib, usage.ru_maxrss)

    def _end_all(self) -> None:
        """Kill whatever is left, until nothing is: what loses its parent becomes a child of this process."""
        while self._reap():
            self._signal_all(_signal.SIGKILL)
            time.sleep(0.001)

    def _signal_all(self, number: int) -> None:
        if self.holder.is_first_in_namespace:
            # everything in the namespace but this process, in one step that no fork escapes
            kill(-1, number)
            return
        if self.status is None:
            # its number is its own until it has been reaped
            kill(self.pid, number)
        for pid in descendants():
            if pid != self.pid:
                kill(pid, number)


def _start_anew() -> None:
    """Make new what a fresh interpreter draws or notes at an import; ``random`` sees to itself at a fork."""
    loaded = sys.modules
    if "numpy.random" in loaded:
        loaded["numpy.random"].seed()
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "logging" in loaded:
        now = loaded["logging"].__dict__
        now["_startTime"] = time.time_ns() if sys.version_info >= (3, 13) else time.time()


def _printed_file() -> int:
    """Both standard streams into one file without a name; returns a descriptor of it."""
    printed = (
        os.memfd_create("printed") if hasattr(os, "memfd_create") else os.open("/", os.O_TMPFILE | os.O_RDWR)
    )
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return printed


def _descriptors() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)}


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def descendants() -> list[int]:
    """Everything below this process, parents first."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = children_of(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def children_of(pid: int) -> list[int]:
    """The direct children of a process, of all its threads."""
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return children
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return children


def kill(pid: int, number: int) -> None:
    """Signal a process that may be gone, or that may have become another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def receive(channel: _socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message with the descriptors beside it; None at the end of the socket."""
    descriptors: list[int] = []
    try:
        head, beside, _, _ = channel.recvmsg(4, _socket.CMSG_SPACE(8))
        for level, kind, data in beside:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                width = len(data) // 4
                descriptors = [int.from_bytes(data[4 * i : 4 * i + 4], sys.byteorder) for i in range(width)]
        while len(head) < 4:
            more = channel.recv(4 - len(head))
            if not head or not more:
                return None
            head += more
        left = int.from_bytes(head, "big")
        parts: list[bytes] = []
        while left:
            part = channel.recv(left)
            if not part:
                return None
            parts.append(part)
            left -= len(part)
    except OSError as error:
        if error.errno not in (errno.ECONNRESET, errno.EPIPE):
            raise
        return None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return marshal.loads(b"".join(parts)), descriptors  # noqa: S302 - it is the runner who speaks


def send(channel: _socket.socket, message: str) -> None:
    """Send one message; a runner that is gone does not hear it."""
    body = message.encode("utf-8", "replace")
    try:
        channel.sendall(len(body).to_bytes(4, "big") + body)
    except (BrokenPipeError, ConnectionResetError):
        return

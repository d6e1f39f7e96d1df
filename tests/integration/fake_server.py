"""A server that speaks docs/reference/runner-protocol.md from memory, and misbehaves when it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rgrid_server.domain import frames
from rgrid_server.domain.attempts import LogEntry, LogFlags, Report, Stream

RUNNER_KEY = "sk_runner"
PATIENCE_SECONDS = 60.0

Id = tuple[str, int]
AHEAD_MS = 86_400_000
"""By so much this server's clock is ahead of the runner's: neither may matter to the other."""


class FakeServer:
    """Hands out attempts, takes logs and reports, and remembers all of it."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.registrations: list[dict[str, Any]] = []
        self.ready: list[dict[str, Any]] = []
        self.specifications: dict[str, dict[str, Any]] = {}
        self.cancel: list[Id] = []
        self.lost: set[Id] = set()
        self.released: list[Id] = []
        self.heartbeats: list[list[Id]] = []
        self.known: list[list[Id]] = []
        self.given: dict[Id, dict[str, Any]] = {}
        self.claims: list[dict[str, Any]] = []
        self.tokens: dict[Id, str] = {}
        self.entries: dict[Id, dict[int, LogEntry]] = defaultdict(dict)
        self.reports: dict[Id, Report] = {}
        self.refused_reports = 0
        self.blobs: dict[str, bytes] = {}
        self.uploaded: list[str] = []
        self.forget_uploads = 0
        self.failures: dict[str, list[int]] = defaultdict(list)
        self.full_for: set[str] = set()
        self.key = RUNNER_KEY
        self._count = 0
        self._http: ThreadingHTTPServer | None = None
        self.listen()

    @property
    def url(self) -> str:
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_port}"

    def listen(self) -> None:
        """Serve, on a port that was not used before."""
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def hang_up(self) -> None:
        """Stop serving."""
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()

    def submit(
        self,
        script: str,
        *,
        runtime: str,
        script_name: str = "script.py",
        requirements: str | None = None,
        inputs: dict[str, bytes] | None = None,
        attempt: int = 1,
        **changes: Any,
    ) -> Id:
        """Make an attempt ready; returns its execution and number."""
        with self.lock:
            self._count += 1
            execution_id = f"exec_{self._count:032x}"
            identity = (execution_id, attempt)
            self.tokens[identity] = f"token-{execution_id}-{attempt}"
            files = []
            for name, content in (inputs or {}).items():
                sha256 = hashlib.sha256(content).hexdigest()
                self.blobs[sha256] = content
                files.append({"name": name, "sha256": sha256, "size_bytes": len(content)})
            self.specifications[execution_id] = {
                "script_content": script,
                "script_name": script_name,
                "runtime": runtime,
                "requirements_content": requirements,
            }
            self.ready.append(
                {
                    "execution_id": execution_id,
                    "attempt": attempt,
                    "token": self.tokens[identity],
                    "specification": execution_id,
                    "tenant_id": "tenant_1",
                    "batch_id": None,
                    "args": [],
                    "env_vars": {},
                    "inputs": files,
                    "outputs": None,
                    "timeout_ms": 60_000,
                    "cpus_milli": 1000,
                    "memory_mib": 1024,
                    "first_sequence": 1,
                    "log_limit_bytes": 256 * 2**20,
                    "output_limit_bytes": 2**30,
                    "output_limit_files": 20_000,
                    "a_field_of_a_newer_server": True,
                    **changes,
                }
            )
            self.lock.notify_all()
        return identity

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something holds; returns it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self.lock:
            while not (found := condition()):
                assert self.lock.wait(max(0.0, deadline - time.monotonic())), f"never: {what}"
            return found

    def report_of(self, identity: Id) -> Report:
        """An attempt's report, when it has come."""
        report: Report = self.until(lambda: self.reports.get(identity), f"a report of {identity}")
        return report

    def printed(self, identity: Id, stream: Stream | None = None) -> bytes:
        """What an attempt's log holds so far."""
        with self.lock:
            entries = self.entries[identity]
            assert list(entries) == list(range(min(entries, default=1), max(entries, default=0) + 1))
            return b"".join(
                (base64.b64decode(entry.text) if entry.flags & LogFlags.BASE64 else entry.text.encode())
                + (b"\n" if entry.flags & LogFlags.NEWLINE else b"")
                for entry in entries.values()
                if stream is None or entry.stream == stream.number
            )

    def answer(self, call: str, body: bytes) -> Any:
        """Answer a call that the runner key opens."""
        if call == "report":
            header, parts = frames.decode(body)
            return {"results": self._take_reports(header["reports"], parts)}
        asked = json.loads(body)
        if call == "register":
            self.registrations.append(asked)
            return {"lease_ms": 5000, "heartbeat_ms": 100, "now_ms": server_now_ms()}
        if call == "claim":
            return self._claim(asked)
        if call == "heartbeat":
            carried = _ids(asked["attempts"])
            self.heartbeats.append(carried)
            cancel, self.cancel = self.cancel, []
            lost = _refs([item for item in carried if item in self.lost])
            return {"cancel": _refs(cancel), "lost": lost, "now_ms": server_now_ms()}
        if call == "release":
            self.released += _ids(asked["attempts"])
            return {}
        assert call == "logs", call
        return {"results": [self._take_chunk(chunk) for chunk in asked["chunks"]]}

    def _claim(self, asked: dict[str, Any]) -> Any:
        self.claims.append(asked)
        generation = len(self.registrations)
        deadline = time.monotonic() + asked["wait_ms"] / 1000
        while not (self.ready and asked["free_slots"]) and not self.cancel:
            if not self.lock.wait(max(0.0, min(0.5, deadline - time.monotonic()))):
                break
            if len(self.registrations) != generation:
                # whoever asked is gone; its successor asks for itself
                return {"attempts": [], "specifications": {}, "cancel": [], "drain": False}
        self.known.append(_ids(asked["known"]))
        given, self.ready = self.ready[: asked["free_slots"]], self.ready[asked["free_slots"] :]
        self.given |= {(item["execution_id"], item["attempt"]): item for item in given}
        cancel, self.cancel = self.cancel, []
        return {
            "attempts": given,
            "specifications": {
                item["specification"]: self.specifications[item["specification"]] for item in given
            },
            "cancel": _refs(cancel),
            "drain": False,
        }

    def _take_chunk(self, chunk: dict[str, Any]) -> str:
        identity = (chunk["execution_id"], chunk["attempt"])
        if chunk["token"] != self.tokens[identity] or identity in self.reports:
            return "stale"
        if chunk["first_sequence"] in self.entries[identity]:
            return "duplicate"
        for sequence, entry in enumerate(chunk["entries"], chunk["first_sequence"]):
            self.entries[identity][sequence] = LogEntry(*entry)
        return "accepted"

    def _take_reports(self, reports: list[dict[str, Any]], parts: list[bytes]) -> list[str]:
        for part in parts:
            self.blobs[hashlib.sha256(part).hexdigest()] = part
        verdicts = []
        for wire in reports:
            report = Report.from_wire(wire)
            identity = (report.execution_id, report.attempt)
            if identity in self.reports:
                verdicts.append("duplicate")
                continue
            if self.forget_uploads and self.uploaded:
                self.forget_uploads -= 1
                self.blobs.pop(self.uploaded[-1])
            if any(item.sha256 not in self.blobs for item in report.artifacts):
                self.refused_reports += 1
                verdicts.append("blobs_missing")
                continue
            if report.log is not None:
                chunk = {
                    "execution_id": report.execution_id,
                    "attempt": report.attempt,
                    "token": report.token,
                }
                entries = [list(entry) for entry in report.log.entries]
                self._take_chunk({**chunk, "first_sequence": report.log.first_sequence, "entries": entries})
            self.reports[identity] = report
            verdicts.append("accepted")
        return verdicts


def server_now_ms() -> int:
    """What time it is at the server."""
    return time.time_ns() // 1_000_000 + AHEAD_MS


def _ids(refs: list[dict[str, Any]]) -> list[Id]:
    return [(item["execution_id"], item["attempt"]) for item in refs]


def _refs(ids: list[Id]) -> list[dict[str, Any]]:
    return [{"execution_id": execution_id, "attempt": attempt} for execution_id, attempt in ids]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A runner that is killed hangs up in the middle; that is no error of the test."""


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self._body()
            call = self.path.removeprefix("/api/v1/runner/")
            if self._fails(call.rsplit("/", 1)[-1]):
                return
            if call.startswith("attempts/"):
                if self._opens_attempt():
                    hashes = json.loads(body)["hashes"]
                    self._answer(200, {"missing": [item for item in hashes if item not in server.blobs]})
                return
            if self.headers["Authorization"] != f"Bearer {server.key}":
                self._answer(401, {"detail": "unauthorized"})
                return
            with server.lock:
                answer = server.answer(call, body)
                server.lock.notify_all()
            self._answer(200, answer)

        def do_PUT(self) -> None:
            body = self._body()
            sha256 = self.path.rsplit("/", 1)[-1]
            if self._fails("put") or not self._opens_attempt():
                return
            assert hashlib.sha256(body).hexdigest() == sha256
            with server.lock:
                server.blobs[sha256] = body
                server.uploaded.append(sha256)
            self._answer(200, {"sha256": sha256, "size_bytes": len(body)})

        def do_GET(self) -> None:
            if self._fails("get") or not self._opens_attempt():
                return
            content = server.blobs[self.path.rsplit("/", 1)[-1]]
            self._send(200, content, "application/octet-stream")

        def log_message(self, *arguments: Any) -> None:
            del arguments

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _fails(self, call: str) -> bool:
            with server.lock:
                status = server.failures[call].pop(0) if server.failures[call] else None
                is_full = call in server.full_for
                server.lock.notify_all()
            if is_full:
                self._answer(503, {"detail": {"error": "storage_full", "message": "make room on its disk"}})
                return True
            if status is None:
                return False
            if status == 0:
                self.close_connection = True
                self.connection.close()
            else:
                self._answer(status, {"detail": "told to fail"})
            return True

        def _opens_attempt(self) -> bool:
            _, execution_id, attempt, *_ = self.path.removeprefix("/api/v1/runner/").split("/")
            token = server.tokens.get((execution_id, int(attempt)))
            if self.headers["Authorization"] != f"Bearer {token}":
                self._answer(401, {"detail": "unauthorized"})
                return False
            return True

        def _answer(self, status: int, content: Any) -> None:
            self._send(status, json.dumps(content).encode(), "application/json")

        def _send(self, status: int, content: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler

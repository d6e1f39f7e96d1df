"""A webhook that notes what is posted to it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Post = tuple[str, str | None, dict[str, Any]]
"""Path, the header X-Room, body."""


class Webhook:
    """Listens for the length of a ``with`` block; a path that ends in ``broken`` is answered 500."""

    def __init__(self) -> None:
        posts: list[Post] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.path, self.headers.get("X-Room"), json.loads(body)))
                self.send_response(500 if self.path.endswith("broken") else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.posts = posts
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def connection(self, password: str) -> str:
        """What ``AIRFLOW_CONN_…`` is to say."""
        return json.dumps(
            {
                "conn_type": "http",
                "host": "http://127.0.0.1/hooks",
                "port": self._server.server_port,
                "password": password,
                "extra": {"headers": {"X-Room": "grid"}},
            }
        )

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

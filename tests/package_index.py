"""A package index that is a directory, for uv to find packages in."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

WHEEL = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Index:
    """A package index on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    def add(self, name: str, version: str, *, requires: str | None = None, size_bytes: int = 0) -> None:
        """Publish a package with one module, which knows its version."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += f"Requires-Dist: {requires}\n" if requires else ""
        files = {
            f"{name}/__init__.py": f"VERSION = {version!r}\n".encode() + b"#" * size_bytes,
            f"{name}-{version}.dist-info/METADATA": metadata.encode(),
            f"{name}-{version}.dist-info/WHEEL": WHEEL,
        }
        rows = [f"{path},sha256={_wheel_hash(data)},{len(data)}" for path, data in files.items()]
        files[f"{name}-{version}.dist-info/RECORD"] = "\n".join([*rows, ""]).encode()
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, data in files.items():
                wheel.writestr(path, data)
        links = [f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in sorted(folder.glob("*.whl"))]
        (folder / "index.html").write_text(f"<html><body>{''.join(links)}</body></html>")


def _wheel_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An empty index under a directory, and a uv that knows nothing but it."""
    made = Index(root / "index")
    made.root.mkdir()
    (root / "pip.conf").write_text(f"[global]\nindex-url = {made.url}\n")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(root / "pip.conf"))
    monkeypatch.setenv("UV_CACHE_DIR", str(root / "cache"))
    return made

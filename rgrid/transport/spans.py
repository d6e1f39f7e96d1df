"""Some of a file's bytes, as the libraries want a body: with a length, to be read or gone through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

CHUNK_BYTES = 256 * 1024


class FileSpan:
    """A file's bytes from an offset on, as many as are named.

    Args:
        file: the file.
        span: the offset and how many; None for all of it.
    """

    def __init__(self, file: Path, span: tuple[int, int] | None) -> None:
        self._file = file.open("rb")
        self._file.seek(0, 2)
        size_bytes = self._file.tell()
        start, length = span if span is not None else (0, size_bytes)
        # a file that has become shorter meanwhile is not promised whole
        self._left_bytes = max(0, min(length, size_bytes - start))
        self._length = self._left_bytes
        self._file.seek(start)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK_BYTES):
            yield chunk

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end."""
        wanted = self._left_bytes if size < 0 else min(size, self._left_bytes)
        chunk = self._file.read(wanted)
        self._left_bytes -= len(chunk)
        return chunk

    def __enter__(self) -> FileSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

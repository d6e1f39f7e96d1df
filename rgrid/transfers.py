"""Files between here and the server, over as many calls as that takes, gone on with where they were cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rgrid import calls, files
from rgrid.arriving import Told
from rgrid.exceptions import NotFound, RGridError
from rgrid.patience import PASSING, Cuts

if TYPE_CHECKING:
    from rgrid.models import Artifact
    from rgrid.streams import Rest
    from rgrid.transport.base import Transport


def upload(
    transport: Transport, paths: Mapping[str, Path], progress: files.Progress | None = None
) -> dict[str, str]:
    """Upload what of some files the server lacks; returns the SHA-256 of each by its name."""
    hashes = {name: files.hash_file(path) for name, path in paths.items()}
    by_hash = {hashes[name]: path for name, path in paths.items()}
    if not by_hash:
        return {}
    missing = transport.send(calls.missing_blobs(list(by_hash)))
    sizes = {sha256: by_hash[sha256].stat().st_size for sha256 in missing}
    shown = progress or files.Silent()
    shown.on_start(sum(sizes.values()))
    try:
        small = [(one, by_hash[one]) for one in missing if sizes[one] <= files.SMALL_FILE_BYTES]
        for group in files.frames_of(small):
            transport.send(calls.put_blobs(group))
            shown.on_advance(sum(len(data) for data in group.values()))
        for one in missing:
            if sizes[one] > files.SMALL_FILE_BYTES:
                _put(transport, one, by_hash[one], sizes[one], shown)
    finally:
        shown.on_end()
    return hashes


def _put(transport: Transport, sha256: str, path: Path, size_bytes: int, shown: files.Progress) -> None:
    """Upload a file, a large one in parts."""
    from rgrid import parts

    most_bytes = parts.part_bytes()
    if size_bytes <= most_bytes:
        transport.send(calls.put_blob(sha256, path))
        shown.on_advance(size_bytes)
        return
    parts.carry(parts.upload_steps(sha256, path, size_bytes, most_bytes, shown.on_advance), transport.send)


def download(
    transport: Transport,
    execution_id: str,
    output_dir: Path,
    names: Sequence[str] | None = None,
    progress: files.Progress | None = None,
) -> list[Path]:
    """Fetch an execution's outputs, or those of ``names``, each whole or not at all.

    Raises:
        rgrid.exceptions.NotFound: it has no output of a name.
    """
    artifacts = transport.send(calls.list_artifacts(execution_id))
    outputs = [item for item in artifacts if item.artifact_type == "output"]
    if names is not None:
        there = {item.filename for item in outputs}
        for name in names:
            if name not in there:
                known = ", ".join(sorted(there)) or "none"
                raise NotFound(f"{execution_id} has no output {name!r}; there is {known}", status=404)
        outputs = [item for item in outputs if item.filename in names]
    shown = progress or files.Silent()
    shown.on_start(sum(item.size_bytes for item in outputs))
    try:
        return [
            _download(transport, item, files.target_of(item.filename, output_dir), shown) for item in outputs
        ]
    finally:
        shown.on_end()


def _download(transport: Transport, artifact: Artifact, target: Path, shown: files.Progress) -> Path:
    def behind(start: int) -> calls.Call[bytes]:
        url = transport.send(calls.download_url(artifact.file_path))
        return calls.fetch(url, start, artifact.sha256)

    with files.AtomicFile(target, artifact.sha256, artifact.mode, artifact.size_bytes) as file:
        fetch(transport, file, behind, Told(file, shown))
    return target


def fetch_rest(transport: Transport, rest: Rest, progress: files.Progress | None) -> bool:
    """Fetch what a stream was cut in, going on where it was; False where that does not work just now."""
    shown = progress or files.Silent()
    try:
        for item, target in rest.files:
            with files.AtomicFile(target, item.sha256, item.mode, item.size_bytes) as file:
                # what is here the stream has brought, and told
                told = Told(file, shown, file.received_bytes)
                fetch(transport, file, partial(calls.get_blob, item.sha256), told)
    except PASSING:
        return False
    return True


def fetch(
    transport: Transport, file: files.AtomicFile, behind: Callable[[int], calls.Call[bytes]], told: Told
) -> None:
    """Fetch a file by the calls for what is behind an offset, going on where it was cut."""
    cuts = Cuts()
    while not file.is_whole:
        try:
            for chunk in transport.stream(behind(file.received_bytes)):
                file.write(chunk)
                told.tell()
            file.check()
        except RGridError as failure:
            told.tell()
            cuts.bear(failure, file.received_bytes)
        else:
            return

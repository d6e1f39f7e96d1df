"""An image with a Python in it, made of this machine's files: no registry is reachable where tests run."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import DockerClient

LEFT_OUT = re.compile(
    r"/(tests?|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-[^/]*|site-packages)(/|$)"
)
SHELLS = (Path("/bin/sh"), Path("/bin/bash"))
MODULE = "of_the_image"
"""A module that this image has and no machine."""


def make_image(client: DockerClient, name: str, packages: Path | None = None) -> str:
    """Have a daemon have an image of a name, with the packages of a directory; returns its id."""
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(
        _archive(packages),
        repository,
        tag,
        changes=["ENV GREETING=hello", "ENV PATH=/opt/python/bin:/usr/bin:/bin"],
    )
    return str(client.images.get(name).id)


def _archive(packages: Path | None) -> bytes:
    packed = io.BytesIO()
    home = Path(sys.base_prefix)
    library = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    program = home / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(program.resolve(), "opt/python/bin/python3")
        # whoever brings packages wants them quick, and so what is compiled
        archive.add(
            library, f"opt/python/lib/{library.name}", filter=_wanted if packages is None else _compiled
        )
        programs = [program, *library.glob("lib-dynload/*.so"), *SHELLS]
        if packages is not None:
            archive.add(packages, f"opt/python/lib/{library.name}/site-packages")
            programs += packages.rglob("*.so")
        for path in sorted(_libraries(programs)):
            # wheels find those that they bring by themselves
            if packages is None or not path.is_relative_to(packages):
                archive.add(path.resolve(), str(path).lstrip("/"))
        for shell in SHELLS:
            archive.add(shell.resolve(), str(shell).lstrip("/"))
        content = b"NAME = 'the image'\n"
        entry = tarfile.TarInfo(f"opt/python/lib/{library.name}/{MODULE}.py")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(tmp)
    return packed.getvalue()


def _compiled(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT.search(entry.name) else entry


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith("/__pycache__") else _compiled(entry)


def _libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries that programs load, by the names they load them by."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)}

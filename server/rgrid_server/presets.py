"""The presets of an operator, from a file: names that stand for a runtime with requirements."""

from __future__ import annotations

from pathlib import Path

from rgrid_server.domain.runtimes import Preset, PresetInvalid, read_presets
from rgrid_server.tomlfile import FileInvalid, read_file


def load_presets(path: Path | None) -> dict[str, Preset]:
    """The presets of a TOML file, a table each; none without a file.

    Raises:
        PresetInvalid: it cannot be read, or does not say what it has to.
    """
    if path is None:
        return {}
    try:
        return read_file(path, "presets", read_presets)
    except FileInvalid as error:
        raise PresetInvalid(str(error)) from None
    except PresetInvalid as error:
        raise PresetInvalid(f"{path}: {error}") from None

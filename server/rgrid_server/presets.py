"""The presets of an operator, from a file: names that stand for a runtime with requirements."""

from __future__ import annotations

import tomllib
from pathlib import Path

from rgrid_server.domain.runtimes import Preset, PresetInvalid, read_presets


def load_presets(path: Path | None) -> dict[str, Preset]:
    """The presets of a TOML file, a table each; none without a file.

    Raises:
        PresetInvalid: it cannot be read, or does not say what it has to.
    """
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise PresetInvalid(f"the presets {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PresetInvalid(f"the presets {path} are not TOML: {error}") from None
    try:
        return read_presets(tables)
    except PresetInvalid as error:
        raise PresetInvalid(f"{path}: {error}") from None

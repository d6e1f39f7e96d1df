"""What scripts run with, as users name it: ``python:3.11``, ``node:20``, ``docker:IMAGE``, a named preset.

A name is read here and nowhere else. A preset is the operator's name for a runtime with requirements. It is
replaced by what it stands for when something is submitted, so that changing a preset changes nothing that was
submitted before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

MAX_NAME_CHARS = 512
ANY_IMAGE = "docker:IMAGE"
"""What a runner offers that runs images. No image is called so: their names have no capitals."""

_NAME = re.compile(r"[a-z][a-z0-9_.-]*(:[A-Za-z0-9][A-Za-z0-9_./:@-]*)?")
_PYTHON = re.compile(r"python:(\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)")
_NODE = re.compile(r"node:(\d{1,4}(?:\.\d{1,4}){0,2})")
_DOCKER = re.compile(r"docker:(.+)")


class Kind(StrEnum):
    """What a runtime's name stands for."""

    PYTHON = "python"
    NODE = "node"
    DOCKER = "docker"
    PRESET = "preset"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that was asked for.

    Attributes:
        name: to the letter.
        version: of an interpreter, as far as it is named: (3, 11) or (3, 11, 7), (20,).
        image: of a container.
    """

    kind: Kind
    name: str
    version: tuple[int, ...] = ()
    image: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A runtime that a runner has: its name, and exactly which version that is there."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Preset:
    """What a name of the operator's stands for."""

    name: str
    runtime: str
    requirements: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What something is to run with: no preset any more, and all that it requires."""

    runtime: str
    requirements: str | None


class PresetInvalid(Exception):
    """The presets are not written as they are to be; the message says which and what to write."""


# asked for every submission, and there are few
@lru_cache(256)
def parse_runtime(name: str) -> Runtime | None:
    """What a name asks for; None where it is no runtime's name at all.

    Whatever could be a name and is no interpreter or image is the name of a preset.
    """
    if len(name) > MAX_NAME_CHARS or _NAME.fullmatch(name) is None:
        return None
    if match := _PYTHON.fullmatch(name):
        return Runtime(Kind.PYTHON, name, version=version_parts(match.group(1)))
    if match := _NODE.fullmatch(name):
        return Runtime(Kind.NODE, name, version=version_parts(match.group(1)))
    if match := _DOCKER.fullmatch(name):
        return Runtime(Kind.DOCKER, name, image=match.group(1))
    return Runtime(Kind.PRESET, name)


def version_parts(version: str) -> tuple[int, ...]:
    """A version's numbers, such as (3, 11, 7); what is no number is left out."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def meets(offer: Offer, runtime: Runtime) -> bool:
    """Whether what a runner offers is what was asked for."""
    offered = parse_runtime(offer.name)
    if offered is None or offered.kind is not runtime.kind:
        return False
    if runtime.kind is Kind.DOCKER:
        return offer.name in {ANY_IMAGE, runtime.name}
    if runtime.kind is Kind.PRESET:
        return offer.name == runtime.name
    return version_parts(offer.version)[: len(runtime.version)] == runtime.version


def is_offered(offers: Iterable[Offer], name: str) -> bool:
    """Whether any of some offers is what a name asks for."""
    runtime = parse_runtime(name)
    return runtime is not None and any(meets(offer, runtime) for offer in offers)


def newest_first(offers: Iterable[Offer]) -> list[Offer]:
    """Pythons before all others, so that one is what runs where nothing is asked for; newer before older."""
    order = list(Kind)

    def rank(offer: Offer) -> tuple[int, list[int]]:
        runtime = parse_runtime(offer.name)
        kind = Kind.PRESET if runtime is None else runtime.kind
        return order.index(kind), [-part for part in version_parts(offer.version)]

    return sorted(offers, key=rank)


def offered_presets(presets: Iterable[Preset], offers: Iterable[Offer]) -> list[Offer]:
    """The presets that any of the offers makes possible, by name, each with the version that it comes to."""
    there = list(offers)
    found: list[Offer] = []
    for preset in sorted(presets, key=lambda one: one.name):
        runtime = parse_runtime(preset.runtime)
        offer = next((one for one in there if runtime is not None and meets(one, runtime)), None)
        if offer is not None:
            found.append(Offer(preset.name, offer.version))
    return found


def read_presets(tables: Mapping[str, object]) -> dict[str, Preset]:
    """Presets by name, from such as ``{"data": {"runtime": "python:3.11", "requirements": ["pandas"]}}``.

    Requirements are a list of texts, or one text as a requirements file has it.

    Raises:
        PresetInvalid: a name is taken by an interpreter or an image, or a table says something else.
    """
    return {name: _read_preset(name, table) for name, table in tables.items()}


def _read_preset(name: str, table: object) -> Preset:
    named = parse_runtime(name)
    if named is None:
        raise PresetInvalid(
            f"the preset {name[:80]!r}: a name is lower-case letters, digits, '_', '.' and '-', "
            "and may go on behind a ':', as python:3.11-data"
        )
    if named.kind is not Kind.PRESET:
        raise PresetInvalid(f"the preset {name[:80]!r} is called as a {named.kind} runtime is; rename it")
    if not isinstance(table, Mapping) or (unknown := sorted(table.keys() - {"runtime", "requirements"})):
        said = (
            f"has {', '.join(map(str, unknown))}, which it cannot"
            if isinstance(table, Mapping)
            else "is no table"
        )
        raise PresetInvalid(f"the preset {name!r} {said}; write runtime and requirements")
    runtime = table.get("runtime")
    asked = parse_runtime(runtime) if isinstance(runtime, str) else None
    if asked is None or asked.kind is Kind.PRESET:
        raise PresetInvalid(
            f"the preset {name!r}: runtime is {runtime!r}; write an interpreter or an image, as python:3.11"
        )
    requirements = table.get("requirements", "")
    if isinstance(requirements, list) and all(isinstance(item, str) for item in requirements):
        requirements = "\n".join(requirements)
    if not isinstance(requirements, str):
        raise PresetInvalid(f'the preset {name!r}: requirements are no list of texts, as ["pandas>=2"]')
    if requirements.strip() and asked.kind is not Kind.PYTHON:
        raise PresetInvalid(
            f"the preset {name!r}: requirements are Python's, and {asked.name} is none; leave them out"
        )
    return Preset(name, asked.name, requirements)

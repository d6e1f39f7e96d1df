"""What the names of runtimes mean."""

from __future__ import annotations

import pytest

from rgrid_server.domain.runtimes import (
    ANY_IMAGE,
    Kind,
    Offer,
    Preset,
    PresetInvalid,
    Runtime,
    meets,
    newest_first,
    offered_presets,
    parse_runtime,
    read_presets,
)


def parsed(name: str) -> Runtime:
    runtime = parse_runtime(name)
    assert runtime is not None
    return runtime


@pytest.mark.parametrize(
    ("name", "kind", "version", "image"),
    [
        ("python:3.11", Kind.PYTHON, (3, 11), ""),
        ("python:3.11.7", Kind.PYTHON, (3, 11, 7), ""),
        ("node:20", Kind.NODE, (20,), ""),
        ("node:20.11.1", Kind.NODE, (20, 11, 1), ""),
        ("docker:debian", Kind.DOCKER, (), "debian"),
        ("docker:ghcr.io/org/Image:1.2@sha256:ab", Kind.DOCKER, (), "ghcr.io/org/Image:1.2@sha256:ab"),
        ("python:3.11-data", Kind.PRESET, (), ""),
        ("python:3", Kind.PRESET, (), ""),
        ("python", Kind.PRESET, (), ""),
        ("node:20-web", Kind.PRESET, (), ""),
        ("science", Kind.PRESET, (), ""),
    ],
)
def test_a_name_says_its_kind(name: str, kind: Kind, version: tuple[int, ...], image: str) -> None:
    assert parsed(name) == Runtime(kind, name, version, image)


@pytest.mark.parametrize(
    "name", ["", "Python:3.11", "python:3.11 ", " node:20", "docker:", "3.11", "a b", "node:../x", "x" * 513]
)
def test_what_is_no_name_is_no_runtime(name: str) -> None:
    assert parse_runtime(name) is None


@pytest.mark.parametrize(
    ("offer", "asked", "is_met"),
    [
        (Offer("python:3.11", "3.11.7"), "python:3.11", True),
        (Offer("python:3.11", "3.11.7"), "python:3.11.7", True),
        (Offer("python:3.11", "3.11.7"), "python:3.11.8", False),
        (Offer("python:3.11", "3.11.7"), "python:3.1", False),
        (Offer("node:20", "20.20.2"), "node:20", True),
        (Offer("node:20", "20.20.2"), "node:20.20", True),
        (Offer("node:20", "20.20.2"), "node:2", False),
        (Offer("node:3", "3.11.7"), "python:3.11", False),
        (Offer(ANY_IMAGE, "27.1"), "docker:debian:12", True),
        (Offer("docker:debian:12", "27.1"), "docker:debian:12", True),
        (Offer("docker:debian:12", "27.1"), "docker:debian:13", False),
        (Offer("data", ""), "data", True),
        (Offer("data", ""), "dat", False),
    ],
)
def test_an_offer_meets_what_was_asked_or_does_not(offer: Offer, asked: str, is_met: bool) -> None:
    assert meets(offer, parsed(asked)) is is_met


def test_the_newest_python_comes_first_whatever_the_numbers_of_others() -> None:
    offers = [Offer(ANY_IMAGE, "27.1"), Offer("node:20", "20.20.2"), Offer("data", "")]
    pythons = [Offer("python:3.9", "3.9.2"), Offer("python:3.13", "3.13.0"), Offer("python:3.11", "3.11.7")]
    found = [offer.name for offer in newest_first([*offers, *pythons])]
    assert found == ["python:3.13", "python:3.11", "python:3.9", "node:20", ANY_IMAGE, "data"]


def test_a_preset_is_offered_where_its_runtime_is() -> None:
    presets = [Preset("web", "node:20"), Preset("data", "python:3.11"), Preset("exact", "python:3.11.8")]
    offers = [Offer("python:3.11", "3.11.7")]
    assert offered_presets(presets, offers) == [Offer("data", "3.11.7")]


def test_a_preset_is_a_runtime_with_requirements() -> None:
    tables = {
        "python:3.11-data": {"runtime": "python:3.11", "requirements": ["pandas>=2", "pyarrow"]},
        "web": {"runtime": "node:20"},
        "plain": {"runtime": "python:3.12", "requirements": "six\n"},
    }
    assert read_presets(tables) == {
        "python:3.11-data": Preset("python:3.11-data", "python:3.11", "pandas>=2\npyarrow"),
        "web": Preset("web", "node:20", ""),
        "plain": Preset("plain", "python:3.12", "six\n"),
    }


@pytest.mark.parametrize(
    ("name", "table", "why"),
    [
        ("python:3.11", {"runtime": "python:3.11"}, "is called as a python runtime is"),
        ("docker:debian", {"runtime": "python:3.11"}, "is called as a docker runtime is"),
        ("Data", {"runtime": "python:3.11"}, "a name is lower-case"),
        ("data", "python:3.11", "is no table"),
        ("data", {}, "runtime is None"),
        ("data", {"runtime": "other"}, "runtime is 'other'"),
        ("data", {"runtime": "python:3.11", "requirement": []}, "has requirement"),
        ("data", {"runtime": "python:3.11", "requirements": [1]}, "no list of texts"),
        ("data", {"runtime": "python:3.11", "requirements": 1}, "no list of texts"),
        ("data", {"runtime": "node:20", "requirements": ["left-pad"]}, "requirements are Python's"),
    ],
)
def test_a_preset_that_is_written_otherwise_is_refused_by_name(name: str, table: object, why: str) -> None:
    with pytest.raises(PresetInvalid, match=why) as refused:
        read_presets({name: table})
    assert repr(name) in str(refused.value)

"""What is built from a clean clone, installed beside a fresh Airflow of each major: Airflow shows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rgrid._version import __version__
from rgrid_provider import get_provider_info
from rgrid_server.runner.pipconfig import index_settings
from tests.airflow_home import AirflowHome
from tests.live import ROOT

UV = ROOT / ".venv" / "bin" / "uv"
PYTHON = ROOT / ".venv" / "bin" / "python"
MAJORS = (3, 2)
INFO = get_provider_info()
LISTS = (
    ["providers", "list"],
    ["providers", "hooks"],
    ["providers", "widgets"],
    ["providers", "notifications"],
    ["providers", "links"],
    ["plugins"],
)
LABELS = """
import json
from airflow.providers_manager import ProvidersManager

print(json.dumps(ProvidersManager().field_behaviours["rgrid"]))
"""
"""What the forms of both majors are labelled by."""
FORM = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

(ours,) = (one for one in HookMetaService.hook_meta_data() if one.connection_type == "rgrid")
print(ours.model_dump_json())
"""
"""What Airflow 3's page asks for before it shows a connection's form."""
EVERY_MODULE = """
import importlib, pkgutil, rgrid_provider
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

other = "cost_airflow2" if AIRFLOW_V_3_0_PLUS else "cost_airflow3"
names = [one.name for one in pkgutil.walk_packages(rgrid_provider.__path__, "rgrid_provider.")]
for name in names:
    if not name.endswith((other, "lineage")):
        importlib.import_module(name)
print(len(names))
"""


def run(command: Sequence[str | Path], directory: Path) -> None:
    """Run a program of packaging; what it says is in the error if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=directory,
        env={**os.environ, **index_settings(os.environ)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, require: Callable[[bool, str], None]) -> Path:
    """A directory with the source distribution that a clean clone makes, and the wheel made from that."""
    require(
        shutil.which("git") is not None and (ROOT / ".git").exists(), "git and a checkout with its history"
    )
    directory = tmp_path_factory.mktemp("built")
    run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), directory / "clone"], directory)
    run([UV, "build", "--quiet", "--out-dir", directory / "dist", directory / "clone"], directory)
    return directory / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def told(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, list[str]]]:
    """What each major's commands print once the package is installed beside it."""
    directory = tmp_path_factory.mktemp("fresh")

    def installed(major: int) -> list[str]:
        venv, python = directory / f"venv{major}", directory / f"venv{major}" / "bin" / "python"
        run([UV, "venv", "--quiet", "--python", PYTHON, venv], directory)
        constraints = ROOT / "requirements" / f"airflow{major}.txt"
        wanted = [f"{wheel}[airflow]", "--constraint", constraints]
        run([UV, "pip", "install", "--quiet", "--python", python, *wanted], directory)
        run([UV, "pip", "check", "--quiet", "--python", python], directory)
        home = AirflowHome(major, directory / f"home{major}", python=python)
        scripts = [EVERY_MODULE, LABELS, FORM] if major == 3 else [EVERY_MODULE, LABELS]
        return home.several(*([*command, "--output", "json"] for command in LISTS), scripts=scripts)

    with ThreadPoolExecutor(len(MAJORS)) as both:
        yield dict(zip(MAJORS, both.map(installed, MAJORS), strict=True))
    shutil.rmtree(directory)


def rows(told: dict[int, list[str]], major: int, *command: str) -> list[dict[str, Any]]:
    """The rows of one of the lists."""
    printed = told[major][LISTS.index(list(command))]
    found: list[dict[str, Any]] = json.loads(printed[printed.index("[{") :])
    return found


def of_script(told: dict[int, list[str]], major: int, number: int) -> Any:
    """What one of the scripts behind the lists printed last."""
    return json.loads(told[major][len(LISTS) + number].splitlines()[-1])


def test_the_wheel_has_the_code_and_the_source_has_what_the_metadata_lead_to(
    built: Path, wheel: Path
) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("rgrid", "server/rgrid_server", "rgrid_provider"):
        for path in (ROOT / package).rglob("*.py"):
            assert str(path.relative_to(ROOT)).removeprefix("server/") in names
    assert (
        not {name.split("/")[0] for name in names}
        - {"rgrid", "rgrid_server", "rgrid_provider"}
        - {f"rgrid-{__version__}.dist-info"}
    )
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for item in (*INFO["integrations"], *INFO["transfers"]):
        guides = item["how-to-guide"]
        assert {guide.lstrip("/") for guide in ([guides] if isinstance(guides, str) else guides)} <= inside


@pytest.mark.parametrize("major", MAJORS)
def test_airflow_lists_the_provider_and_what_it_brings(told: dict[int, list[str]], major: int) -> None:
    (provider,) = (one for one in rows(told, major, "providers", "list") if one["package_name"] == "rgrid")
    assert provider["version"] == __version__
    assert "Run Python scripts on a grid" in provider["description"]
    (hook,) = (one for one in rows(told, major, "providers", "hooks") if one["connection_type"] == "rgrid")
    assert hook["class"] == "rgrid_provider.hooks.rgrid.RGridHook"
    assert INFO["notifications"][0] in str(rows(told, major, "providers", "notifications"))
    links = str(rows(told, major, "providers", "links"))
    assert all(link in links for link in INFO["extra-links"])


@pytest.mark.parametrize("major", MAJORS)
def test_airflow_lists_the_plugin_of_the_package(told: dict[int, list[str]], major: int) -> None:
    (plugin,) = (one for one in rows(told, major, "plugins") if one["name"] == "rgrid_cost")
    assert f"rgrid=={__version__}" in plugin["source"]


@pytest.mark.parametrize("major", MAJORS)
def test_the_connections_form_has_our_fields_and_labels(told: dict[int, list[str]], major: int) -> None:
    (kind,) = INFO["connection-types"]
    widgets = [one for one in rows(told, major, "providers", "widgets") if "rgrid" in str(one)]
    fields = {one["connection_parameter_name"] for one in widgets}
    assert fields == {f"extra__rgrid__{name}" for name in kind["conn-fields"]}
    labels = of_script(told, major, 1)
    assert labels["relabeling"] == kind["ui-field-behaviour"]["relabeling"]
    assert labels["hidden_fields"] == ["login"]
    if major == 3:
        form = of_script(told, major, 2)
        assert form["hook_name"] == "RGrid"
        assert form["standard_fields"]["password"]["title"] == "API key"
        assert set(form["extra_fields"]) == set(kind["conn-fields"])


@pytest.mark.parametrize("major", MAJORS)
def test_every_module_is_imported_with_nothing_but_what_the_package_asks_for(
    told: dict[int, list[str]], major: int
) -> None:
    assert of_script(told, major, 0) > 20

"""What Airflow reads of the provider."""

from __future__ import annotations

import importlib
import importlib.resources
import json

import jsonschema

from rgrid_provider import get_provider_info


def test_the_metadata_are_valid_against_airflows_own_schemas() -> None:
    for name in ("provider_info.schema.json", "provider.yaml.schema.json"):
        schema = importlib.resources.files("airflow").joinpath(name)
        if not schema.is_file():
            continue
        found = json.loads(schema.read_text())
        # the file that describes a provider in Airflow's own repository asks for more than a package has
        found.pop("required", None)
        found.pop("additionalProperties", None)
        jsonschema.validate(get_provider_info(), found)


def test_everything_that_the_metadata_name_can_be_imported() -> None:
    info = get_provider_info()
    modules = [
        module
        for kind in ("hooks", "operators", "sensors", "triggers")
        for item in info[kind]
        for module in item["python-modules"]
    ]
    classes = [
        *info["extra-links"],
        *(item["hook-class-name"] for item in info["connection-types"]),
        *(item["plugin-class"] for item in info["plugins"]),
        *(item["class-name"] for item in info["task-decorators"]),
    ]
    for module in modules:
        importlib.import_module(module)
    for name in classes:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_airflow_finds_the_provider_and_its_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "rgrid" in manager.providers
    hook = manager.hooks["rgrid"]
    assert hook is not None
    assert hook.hook_class_name == "rgrid_provider.hooks.rgrid.RGridHook"

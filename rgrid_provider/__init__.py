"""The Apache Airflow provider of RGrid: operators, sensors, hooks, triggers, links and the cost view."""

from __future__ import annotations

from typing import Any

INTEGRATION = "RGrid"
GUIDES = "/docs/how-to/airflow"
"""Where the pages are, as Airflow's metadata have such paths: from the root of the source distribution."""


def get_provider_info() -> dict[str, Any]:
    """What Airflow's provider manager reads (airflow/provider_info.schema.json)."""
    return {
        "package-name": "rgrid",
        "name": INTEGRATION,
        "description": "Run Python scripts on a grid, and know to the last micro what they cost.",
        "integrations": [
            {
                "integration-name": INTEGRATION,
                "external-doc-url": "https://pypi.org/project/rgrid/",
                "how-to-guide": [
                    f"{GUIDES}/run-operator.md",
                    f"{GUIDES}/batch-operator.md",
                    f"{GUIDES}/task-decorator.md",
                    f"{GUIDES}/sensors.md",
                    f"{GUIDES}/notifier.md",
                ],
                "tags": ["software"],
            }
        ],
        "transfers": [
            {
                "source-integration-name": INTEGRATION,
                "target-integration-name": "PostgreSQL",
                "how-to-guide": f"{GUIDES}/cost-to-postgres.md",
                "python-module": "rgrid_provider.transfers.rgrid_to_postgres",
            }
        ],
        "notifications": ["rgrid_provider.notifications.rgrid.RGridNotifier"],
        "hooks": [{"integration-name": INTEGRATION, "python-modules": ["rgrid_provider.hooks.rgrid"]}],
        "operators": [
            {"integration-name": INTEGRATION, "python-modules": ["rgrid_provider.operators.rgrid"]}
        ],
        "sensors": [{"integration-name": INTEGRATION, "python-modules": ["rgrid_provider.sensors.rgrid"]}],
        "triggers": [{"integration-name": INTEGRATION, "python-modules": ["rgrid_provider.triggers.rgrid"]}],
        "extra-links": [
            "rgrid_provider.links.rgrid.RGridExecutionLink",
            "rgrid_provider.links.rgrid.RGridBatchLink",
        ],
        "connection-types": [
            {
                "connection-type": "rgrid",
                "hook-class-name": "rgrid_provider.hooks.rgrid.RGridHook",
                "hook-name": "RGrid",
                "ui-field-behaviour": {
                    "hidden-fields": ["login"],
                    "relabeling": {"host": "Server", "password": "API key"},
                    "placeholders": {
                        "host": "https://rgrid.example.com",
                        "password": "sk_...",
                        "extra": '{"verify": true, "timeout": 30}',
                    },
                },
                "conn-fields": {
                    "tenant": {
                        "label": "Tenant",
                        "schema": {"type": ["string", "null"]},
                        "description": "For your own reference: the key itself says whose it is.",
                    },
                    "verify": {
                        "label": "Verify TLS",
                        "schema": {"type": ["string", "null"]},
                        "description": "true, false, or the path of a CA bundle.",
                    },
                    "proxies": {
                        "label": "Proxies",
                        "schema": {"type": ["string", "null"]},
                        "description": 'JSON such as {"https": "http://proxy:3128"}.',
                    },
                    "timeout": {
                        "label": "Timeout",
                        "schema": {"type": ["number", "string", "null"]},
                        "description": "Seconds to wait for an answer; 30 by default.",
                    },
                },
            }
        ],
        "task-decorators": [{"name": "rgrid", "class-name": "rgrid_provider.decorators.rgrid.rgrid_task"}],
        "plugins": [{"name": "rgrid_cost", "plugin-class": "rgrid_provider.plugins.cost.RGridCostPlugin"}],
    }

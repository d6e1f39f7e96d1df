"""Tell a chat how tasks and runs ended and what they cost.

Needs the connection `rgrid_default`, and an HTTP connection `chat` that names the chat's webhook.
"""

from __future__ import annotations

import datetime

from airflow.providers.common.compat.sdk import DAG

from rgrid_provider.notifications.rgrid import RGridNotifier
from rgrid_provider.operators.rgrid import RGridRunOperator

with DAG(
    dag_id="rgrid_notifier",
    start_date=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    schedule=None,
    tags=["rgrid", "example"],
    doc_md=__doc__,
    # of the whole run
    on_failure_callback=RGridNotifier(webhook_conn_id="chat"),
    on_success_callback=RGridNotifier(webhook_conn_id="chat"),
) as dag:
    RGridRunOperator(
        task_id="count",
        script="print(sum(range(10**6)))",
        # of this task
        on_success_callback=RGridNotifier(
            webhook_conn_id="chat",
            message="{{ rgrid.subject }} in {{ run_id }}: {{ rgrid.outcome }} for {{ rgrid.cost_display }}",
        ),
    )

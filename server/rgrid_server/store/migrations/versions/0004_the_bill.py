"""Usages in the order in which the bill is read."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_usages_bill", "usages", ["tenant_id", "day", "execution_id", "attempt"])
    op.drop_index("ix_usages_tenant_day", table_name="usages")

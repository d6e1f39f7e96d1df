"""Usages in the order in which the bill is read; secrets, sealed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_usages_bill", "usages", ["tenant_id", "day", "execution_id", "attempt"])
    op.drop_index("ix_usages_tenant_day", table_name="usages")
    op.create_table(
        "secrets",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
    )
    op.add_column("executions", sa.Column("secrets", sa.JSON(), nullable=True))

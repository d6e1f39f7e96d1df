"""Usages in the order in which the bill is read; secrets, sealed; results that stand for others."""

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
    op.create_table(
        "result_cache",
        sa.Column("tenant_id", sa.String(), primary_key=True),
        sa.Column("cache_key", sa.String(), primary_key=True),
        sa.Column("execution_id", sa.String(), nullable=False),
        sa.Column("script_name", sa.String(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("output_count", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_result_cache_script", "result_cache", ["tenant_id", "script_name", "created_at_ms"])
    op.create_index("ix_result_cache_expiry", "result_cache", ["expires_at_ms"])
    op.add_column("executions", sa.Column("cache", sa.String(), nullable=True))

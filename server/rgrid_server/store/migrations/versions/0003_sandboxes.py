"""Why a runner uses the sandbox that it uses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runners", sa.Column("sandbox_reason", sa.String(), nullable=True))

"""Numbers of changes: who has read up to one reads on from there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Number hosts and rules from 1 on, so that all of them are read by who has read nothing."""
    counters = op.create_table(
        "counters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fleet", sa.BigInteger, nullable=False),
        sa.Column("signs", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"id": 1, "fleet": 1, "signs": 1}])
    for table in ("hosts", "rules"):
        op.add_column(table, sa.Column("number", sa.BigInteger, nullable=False, server_default="1"))
        op.create_index(f"ix_{table}_number", table, ["number"])


def downgrade() -> None:
    """Back to tables that are read as a whole."""
    for table in ("rules", "hosts"):
        op.drop_index(f"ix_{table}_number", table)
        op.drop_column(table, "number")
    op.drop_table("counters")

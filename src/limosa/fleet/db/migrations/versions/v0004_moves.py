"""Finished moves, and how far each agent's archive is known."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables of finished moves."""
    op.create_table(
        "moves",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(253), primary_key=True),
        sa.Column("destination", sa.String(253), nullable=False),
        sa.Column("guest", sa.Text, nullable=False),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("ended", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("past", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("ix_moves_ended", "moves", ["ended"])
    op.create_index("ix_moves_operation", "moves", ["operation"])
    op.create_table(
        "archives",
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("archives")
    op.drop_table("moves")

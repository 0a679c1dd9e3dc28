"""How far each hook is."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of hooks."""
    op.create_table(
        "hook_progress",
        sa.Column("hook", sa.String(512), primary_key=True),
        sa.Column("progress", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("hook_progress")

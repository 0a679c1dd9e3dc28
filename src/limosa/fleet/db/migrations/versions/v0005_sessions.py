"""Sessions of the dashboard."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Sessions end with their token."""
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("token", sa.String(253), sa.ForeignKey("tokens.name", ondelete="CASCADE"), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_index("ix_sessions_token", "sessions", ["token"])


def downgrade() -> None:
    """Everybody is signed out."""
    op.drop_table("sessions")

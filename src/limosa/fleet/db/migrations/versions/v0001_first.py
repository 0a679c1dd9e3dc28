"""The first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make everything."""
    op.create_table(
        "answers",
        sa.Column("who", sa.String(253), primary_key=True),
        sa.Column("key", sa.String(253), primary_key=True),
        sa.Column("asked", sa.String(64), nullable=False),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False, server_default="{}"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "guests",
        sa.Column("id", sa.String(253), primary_key=True),
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
    )
    op.create_index("ix_guests_host", "guests", ["host"])
    op.create_index("ix_guests_name", "guests", ["name"])
    op.create_table(
        "hosts",
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False, server_default="active"),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("settings", sa.Text, nullable=False, server_default="{}"),
        sa.Column("machine", sa.Text),
        sa.Column("seen", sa.Float, nullable=False, server_default="0"),
        sa.Column("trouble", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(253), nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("wish", sa.String(16), nullable=False, server_default="run"),
        sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
        sa.Column("holder", sa.String(253), nullable=False, server_default=""),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("ix_operations_created", "operations", ["created"])
    op.create_index("ix_operations_phase", "operations", ["phase"])
    op.create_table(
        "rules",
        sa.Column("guest", sa.String(253), primary_key=True),
        sa.Column("rules", sa.Text, nullable=False, server_default="{}"),
        sa.Column("home", sa.String(253)),
        sa.Column("moved_at", sa.Float),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_index("ix_tokens_hash", "tokens", ["hash"])


def downgrade() -> None:
    """Remove everything."""
    op.drop_table("tokens")
    op.drop_table("rules")
    op.drop_table("operations")
    op.drop_table("leases")
    op.drop_table("hosts")
    op.drop_table("guests")
    op.drop_table("events")
    op.drop_table("changes")
    op.drop_table("answers")

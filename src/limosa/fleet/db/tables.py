"""The tables, as SQLAlchemy Core knows them; `migrations/` makes them, and a test holds the two together.

Times are seconds since 1970. What is only ever read as a whole is one JSON text, typed by msgspec where it is read.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"},
)

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""Of rows that number themselves: 64 bits, which SQLite gives to `INTEGER PRIMARY KEY` only."""

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("name", sa.String(253), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, server_default="active"),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("settings", sa.Text, nullable=False, server_default="{}"),
    sa.Column("machine", sa.Text),
    sa.Column("seen", sa.Float, nullable=False, server_default="0"),
    sa.Column("trouble", sa.Text, nullable=False, server_default=""),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="1", index=True),
)

guests = sa.Table(
    "guests",
    metadata,
    sa.Column("id", sa.String(253), primary_key=True),
    sa.Column("host", sa.String(253), primary_key=True, index=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
)

rules = sa.Table(
    "rules",
    metadata,
    sa.Column("guest", sa.String(253), primary_key=True),
    sa.Column("rules", sa.Text, nullable=False, server_default="{}"),
    sa.Column("home", sa.String(253)),
    sa.Column("moved_at", sa.Float),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="1", index=True),
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("fleet", sa.BigInteger, nullable=False),
    sa.Column("signs", sa.BigInteger, nullable=False),
)
"""One row: whoever changes hosts, guests or rules takes his number here first, and so locks all others out."""

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("phase", sa.String(16), nullable=False, index=True),
    sa.Column("wish", sa.String(16), nullable=False, server_default="run"),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    sa.Column("holder", sa.String(253), nullable=False, server_default=""),
    sa.Column("body", sa.Text, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(253), nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False, server_default="{}"),
    sqlite_autoincrement=True,
)

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("name", sa.String(253), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("token", sa.String(253), sa.ForeignKey("tokens.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("who", sa.String(253), primary_key=True),
    sa.Column("key", sa.String(253), primary_key=True),
    sa.Column("asked", sa.String(64), nullable=False),
    sa.Column("operation", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

hook_progress = sa.Table(
    "hook_progress",
    metadata,
    sa.Column("hook", sa.String(512), primary_key=True),
    sa.Column("progress", sa.Text, nullable=False),
)

moves = sa.Table(
    "moves",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(253), primary_key=True),
    sa.Column("destination", sa.String(253), nullable=False),
    sa.Column("guest", sa.Text, nullable=False),
    sa.Column("uuid", sa.String(64), nullable=False),
    sa.Column("began", sa.Float, nullable=False),
    sa.Column("ended", sa.Float, nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("operation", sa.String(64), nullable=False, index=True),
    sa.Column("past", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)
"""Finished moves, as their sources told of them: in a line (`past`), and whole (`record`)."""

archives = sa.Table(
    "archives",
    metadata,
    sa.Column("host", sa.String(253), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
)
"""How far each agent's archive of finished moves is known."""

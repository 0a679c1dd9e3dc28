"""Numbers of events and changes that do not end at 2,147,483,647."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_NUMBERED = (("events", "number"), ("changes", "number"))


def upgrade() -> None:
    """Widen the columns; their sequences are as wide as they were made for, and are widened with them."""
    _to(sa.BigInteger(), "bigint")


def downgrade() -> None:
    """Narrow them again; PostgreSQL refuses where a number is too large by now, and nothing is changed."""
    _to(sa.Integer(), "integer")


def _to(kind: sa.types.TypeEngine[int], word: str) -> None:
    # In SQLite INTEGER PRIMARY KEY has 64 bits, and only under that name numbers itself.
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, column in _NUMBERED:
        op.alter_column(table, column, type_=kind)
        op.execute(f"ALTER SEQUENCE {table}_{column}_seq AS {word}")

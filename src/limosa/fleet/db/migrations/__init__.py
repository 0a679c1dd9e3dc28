"""Alembic's scripts: one for each version of the database; a version that was released is never changed."""

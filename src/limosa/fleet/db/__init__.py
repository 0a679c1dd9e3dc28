"""The controller's database: SQLite by default, PostgreSQL by URL."""

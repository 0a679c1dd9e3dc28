"""Long operations: decided by pure functions, carried out through a port, durable on DBOS."""

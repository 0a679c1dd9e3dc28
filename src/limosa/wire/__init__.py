"""The types that cross a process boundary (msgspec), shared by agent, controller, API, CLI, web."""

"""REST and dashboard."""

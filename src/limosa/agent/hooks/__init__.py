"""Hooks: the rest of the infrastructure learns where a guest lives now, after the move and never inside it."""

"""Inventory, planners (pure), operations (durable)."""

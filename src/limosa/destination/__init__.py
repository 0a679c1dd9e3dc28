"""profile -> argv (pure), launch."""

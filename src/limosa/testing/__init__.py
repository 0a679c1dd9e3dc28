"""The contract suite that any kind of cargo must pass."""

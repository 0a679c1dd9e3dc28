"""What runs here: discover.py, profile.py (frozen), introspect.py (reads it), compare.py (twin check)."""

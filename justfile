# What CI and pre-commit run, short of real QEMU.
check:
    ruff format --check .
    ruff check .
    mypy
    lint-imports
    pytest -m 'not qemu'

# Format and mend what can be mended without asking.
fix:
    ruff format .
    ruff check --fix .

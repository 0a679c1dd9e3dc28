"""`python -m limosa`: the same as `limosa`."""

from limosa.cli import main

main()

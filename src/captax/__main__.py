"""`python -m captax` is the `captax` command."""

from captax.cli.main import main

main()

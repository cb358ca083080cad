"""`python -m muster`: the `muster` command where it is not on the PATH."""

from muster.cli import main

main()

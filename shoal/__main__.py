"""`python -m shoal` is `shoal`."""

from shoal.cli.entry import main

main()

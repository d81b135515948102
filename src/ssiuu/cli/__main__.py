"""`python -m ssiuu.cli` is the same as `ssiuu`."""

from ssiuu.cli.main import main

main()

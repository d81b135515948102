"""`python -m ssiuu` is the same as `ssiuu`."""

from ssiuu.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m jaxcoinfer` is the `jaxcoinfer` command."""

import sys

from jaxcoinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())

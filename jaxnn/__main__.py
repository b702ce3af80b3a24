"""The command `jaxnn`, as `python -m jaxnn`."""

import sys

from .command.tool import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m labnet`` is the command line."""

import sys

from labnet.cli import main

if __name__ == "__main__":
    sys.exit(main())

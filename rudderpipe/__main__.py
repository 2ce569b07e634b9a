"""The command line, as ``python -m rudderpipe``."""

import sys

from rudderpipe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

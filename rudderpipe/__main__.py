"""``python -m rudderpipe``: the command line."""

import sys

from rudderpipe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

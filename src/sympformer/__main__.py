"""`python -m sympformer` is the command line."""

import sys

from sympformer.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m dpo_numpy` is the command `dpo-numpy`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())

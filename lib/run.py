"""`python -m lib.run NOTEBOOK`: the strict runner, lib.runs.runner."""

import sys

from lib.runs.runner import main

if __name__ == "__main__":
    sys.exit(main())

"""The command `python -m lib.convert`; see lib.models.convert."""

import sys

from lib.models.convert import main

if __name__ == "__main__":
    sys.exit(main())

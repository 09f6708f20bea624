"""`python -m lib.convert SOURCE... --to FOLDER`: published weights to a system folder, lib.models.convert."""

import sys

from lib.models.convert import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m lib.onestep FOLDER`: restores a folder of pictures in one step, lib.restoration.one_step_folder."""

import sys

from lib.restoration.one_step_folder import main

if __name__ == "__main__":
    sys.exit(main())

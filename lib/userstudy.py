"""`python -m lib.userstudy params/user_study.yaml`: serves a user study, lib.user_study.command."""

import sys

from lib.user_study.command import main

if __name__ == "__main__":
    sys.exit(main())

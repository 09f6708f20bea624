"""What `make lab` adds to the user's own Jupyter configuration: committed notebooks are tidied when they are saved."""

from lib.runs.lab import tidy_before_saving

c = get_config()  # noqa: F821  (Jupyter provides it)
c.FileContentsManager.pre_save_hook = tidy_before_saving

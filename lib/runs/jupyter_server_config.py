"""What `make lab` adds to the user's own Jupyter configuration: notebooks are tidied when saved; larger uploads."""

from lib.runs.lab import tidy_before_saving

c = get_config()  # noqa: F821  (Jupyter provides it)
c.FileContentsManager.pre_save_hook = tidy_before_saving
c.ServerApp.tornado_settings.update({"websocket_max_message_size": 500_000_000})  # bytes: 10 MB hold no ten photographs

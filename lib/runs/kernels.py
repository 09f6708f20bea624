"""Kernels that end with their runner: killed with it, after a time limit, or when a batch stops.

ipykernel itself looks once a second whether its parent is still there. It does not while native code holds the
interpreter, nor when the runner died before the kernel looked for the first time. On Linux the system kills it.
"""

import ctypes
import os
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager

from jupyter_client import AsyncKernelManager
from traitlets import Unicode

from lib.errors import TimeLimitError

LONGEST_SOCKETS = 85  # characters of a folder; with the names in it, a Unix socket's path may have 107
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when the thread that started it ends
_lock = threading.Lock()  # of the two below
_running = {}  # the run folder -> process of its kernel, None before it started
_ended = {}  # the run folder -> why its kernel was ended


class Kernel(AsyncKernelManager):
    """A kernel that dies with the process that started it, and that `end` finds by its run folder."""

    folder = Unicode(help="the run folder").tag(config=True)

    async def _async_pre_start_kernel(self, **kw):
        command, kw = await super()._async_pre_start_kernel(**kw)
        return command, kw | ({"preexec_fn": _dying_with(os.getpid())} if sys.platform == "linux" else {})

    async def _async_launch_kernel(self, kernel_cmd, **kw):
        await super()._async_launch_kernel(kernel_cmd, **kw)
        with _lock:
            _running[self.folder] = self.provisioner.process
            late = self.folder in _ended  # it was ended while it started
        if late:
            self.provisioner.process.kill()


def _dying_with(parent):
    """What the child does before it becomes the kernel: it asks to be killed when its parent dies."""
    prctl = ctypes.CDLL(None).prctl

    def ask():
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the question
            os._exit(1)

    return ask


def end(folder, why):
    """Kills the kernel of a run folder, if this process has one or is starting one; `limited` says why."""
    with _lock:
        if str(folder) not in _running:
            return
        _ended[str(folder)] = why
        process = _running[str(folder)]
    if process:
        process.kill()


def end_all(folders, why):
    """`end` for each of the folders."""
    for folder in folders:
        end(folder, why)


@contextmanager
def limited(folder, seconds=None):
    """Inside the block the kernel of `folder` runs at most `seconds` (None: as long as it takes).

    Raises TimeLimitError in place of the error that a killed kernel gives.
    """
    folder = str(folder)
    limit = f"it took longer than {seconds:g} s" if seconds else ""
    timer = threading.Timer(seconds or 0, end, (folder, limit))
    timer.daemon = True
    with _lock:
        _running[folder] = None
    if seconds:
        timer.start()
    try:
        yield
    except Exception as error:
        if folder in _ended:
            raise TimeLimitError(_ended[folder]) from error
        raise
    finally:
        timer.cancel()
        with _lock:
            _running.pop(folder, None)
            _ended.pop(folder, None)


@contextmanager
def transport():
    """How the runner talks to its kernel: sockets in a folder of its own, which no other run can take.

    Ports of TCP can be taken by another run in the same second; they serve where no folder's name is short enough.
    """
    short = [folder for folder in (tempfile.gettempdir(), "/tmp") if len(folder) <= LONGEST_SOCKETS]
    if not short or not os.access(short[0], os.W_OK):
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=short[0], ignore_cleanup_errors=True) as sockets:
        yield {"transport": "ipc", "ip": f"{sockets}/k"}

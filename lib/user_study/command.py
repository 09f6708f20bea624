"""The command: checks a study whole, then serves it until Ctrl-C."""

import argparse
import ipaddress
import secrets
import socket
import sys

from lib.errors import StudyFileError, exit_status
from lib.paths import display_path
from lib.user_study import design

PORT = 8013
WARNING = """
Warning: {host} can be reached by other machines. Whoever can open the address can take part.
What goes over the network is not encrypted: a participant's choices and token, and the key of the page in charge.
Use it on a network that you trust, or behind a proxy with HTTPS. Do not put it on the open internet as it is.
"""


def main(words=None):
    """The command; returns its exit status."""
    given = _arguments(words)
    return exit_status(lambda: _serve(given))


def _arguments(words):
    parser = argparse.ArgumentParser(
        "python -m lib.userstudy", description="Serve a user study to browsers, and keep the answers."
    )
    parser.add_argument("file", help="the study, such as params/user_study.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (this machine only, unless given)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port ({PORT}); 0 takes a free one")
    parser.add_argument("--store", help="folder of the answers (a folder in runs/user_study unless given)")
    parser.add_argument("--check", action="store_true", help="check the study and its pictures, and serve nothing")
    return parser.parse_args(words)


def _serve(given):
    from lib.user_study.session import open_study

    session = open_study(given.file, given.store)
    _report(session)
    if given.check:
        return
    listener = _listen(given.host, given.port)
    key = secrets.token_urlsafe(18)
    address = f"http://{given.host if given.host not in ('0.0.0.0', '::') else socket.gethostname()}"
    address += f":{listener.getsockname()[1]}"
    if not _loopback(given.host):
        print(WARNING.format(host=given.host), file=sys.stderr)
    print(f"participants  {address}/")
    print(f"in charge     {address}/manage?key={key}")
    print(f"answers       {display_path(session.store.file)}")
    where = display_path(session.file), display_path(session.store.file.parent)
    print(f"analysis      python -m lib.run 08_user_study -p STUDY {where[0]} -p ANSWERS {where[1]}")
    print("Ctrl-C stops it; the same command goes on where it stopped.", flush=True)
    _run(session, key, listener, given.host)


def _run(session, key, listener, host):
    import uvicorn

    from lib.user_study.server import Server

    hosts = ("127.0.0.1", "localhost", "[::1]") if _loopback(host) else ("*",)
    config = uvicorn.Config(
        Server(session, key, hosts).app, log_level="warning", access_log=False, server_header=False, ws="none",
        lifespan="off", proxy_headers=False, limit_concurrency=500, timeout_keep_alive=30,
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        session.store.close()


def _report(session):
    """What was checked, in words: the parts, the items, and how balanced the trials are."""
    study, items = session.study, list(session.items)
    found = design.imbalance(study, items, min(study.participants, 60))
    for part in study.parts:
        counts = f"{part.trials} of {len(items)} items for each participant, {len(part.arms)} arms"
        print(f"part {part.name}: {counts}; {_words(found[part.name])}")
    for name, one in found.items():
        if max(one["own places"], one["places"]) > 1:  # cannot be, by construction; the check is the promise
            raise StudyFileError(f"Unbalanced trials in part {name}: {one}. Remedy: report this with the study file.")


def _words(one):
    return f"places balanced to {one['places']}, views to {one['views']}"


def _listen(host, port):
    """A listening socket. Raises StudyFileError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # who comes while the server starts waits a moment
        return listener
    except (OSError, OverflowError) as error:
        raise StudyFileError(
            f"Cannot listen on {host}:{port}: {error}. Remedy: another --port, or end the program that has it."
        ) from None


def _loopback(host):
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

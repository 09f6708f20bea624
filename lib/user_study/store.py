"""Where answers are kept: one SQLite file in WAL mode. What `add` has returned from survives a killed process.

Tokens are kept as hashes, so the file lets nobody go on as a participant. Nothing else about a person is in it.
"""

import hashlib
import sqlite3
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lib.errors import NoSpaceError, StoreError
from lib.paths import disk_full, display_path

FILE = "answers.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS study (fingerprint TEXT PRIMARY KEY, begun TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS participant (
    number INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, joined TEXT NOT NULL,
    seen TEXT NOT NULL, finished INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS answer (
    participant INTEGER NOT NULL REFERENCES participant(number) ON DELETE CASCADE, trial INTEGER NOT NULL,
    part TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL, options TEXT NOT NULL, position INTEGER NOT NULL,
    chosen TEXT NOT NULL, correct INTEGER, seconds REAL NOT NULL, server_seconds REAL, width INTEGER,
    at TEXT NOT NULL, PRIMARY KEY (participant, trial)) WITHOUT ROWID;
"""
ANSWER = ("participant", "trial", "part", "kind", "item", "options", "position", "chosen", "correct", "seconds")
ANSWER += ("server_seconds", "width", "at")
QUERY = f"SELECT origin, {', '.join(ANSWER)} FROM answer JOIN participant ON number = participant ORDER BY 2, 3"
BUSY = 20.0  # seconds to wait for another process on the same file


def now():
    """The time of day in UTC, for a reader of the table; nothing is computed from it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """The answers to one study. Several threads and processes may use one file.

    Args: folder; fingerprint, of the study (`picture_sets.fingerprint`).
    Raises StoreError where the file is no store, or one of another study.
    """

    def __init__(self, folder, fingerprint):
        self.file = Path(folder) / FILE
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        try:
            self._open()
            with self._transaction() as db:
                db.execute("INSERT OR IGNORE INTO study VALUES (?, ?)", (fingerprint, now()))
                held = [row[0] for row in db.execute("SELECT fingerprint FROM study")]
        except sqlite3.Error as error:
            raise StoreError(f"Not a store of answers: {display_path(self.file)}: {error}. Remedy: move it.") from None
        if held != [fingerprint]:
            raise StoreError(
                f"Answers to another study: {display_path(self.file)}. Remedy: another folder for this one (--store)."
            )

    def _open(self):
        self._db = sqlite3.connect(self.file, timeout=BUSY, isolation_level=None, check_same_thread=False)
        for line in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {line}")
        self._db.executescript(SCHEMA)

    @contextmanager
    def _transaction(self):
        """All of the block or nothing, on the disk when it ends."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if disk_full(error) or "disk is full" in str(error):
                    raise NoSpaceError(
                        f"No space left: {display_path(self.file)}. Remedy: free some; the page tries again."
                    ) from None
                raise

    def _rows(self, query, values=()):
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def join(self, token, origin, most):
        """The number of a new participant: the lowest that is free; None where `most` have begun already.

        origin: where the participant answers, "browser", "notebook" or "simulated". Kept with every answer.
        """
        with self._transaction() as db:
            taken = {row[0] for row in db.execute("SELECT number FROM participant")}
            if len(taken) >= most:
                return None
            number = next(k for k in range(len(taken) + 1) if k not in taken)
            row = (number, hashed(token), origin, now(), now())
            db.execute("INSERT INTO participant (number, token, origin, joined, seen) VALUES (?, ?, ?, ?, ?)", row)
            return number

    def number_of(self, token):
        """The participant with that token, or None."""
        found = self._rows("SELECT number FROM participant WHERE token = ?", (hashed(token),))
        return found[0][0] if found else None

    def add(self, answer, last):
        """Keeps an answer, dict of ANSWER without "at", unless the trial has one. Returns the position that is kept.

        last: whether the participant has finished with it.
        """
        row = {**answer, "at": now()}
        places = ", ".join(f":{name}" for name in ANSWER)
        with self._transaction() as db:
            db.execute(f"INSERT OR IGNORE INTO answer ({', '.join(ANSWER)}) VALUES ({places})", row)
            db.execute(
                "UPDATE participant SET seen = ?, finished = max(finished, ?) WHERE number = ?",
                (row["at"], int(last), row["participant"]),
            )
            query = "SELECT position FROM answer WHERE participant = ? AND trial = ?"
            return db.execute(query, (row["participant"], row["trial"])).fetchone()[0]

    def answered(self, participant):
        """How many trials a participant has answered; they are answered in order."""
        return self._rows("SELECT count(*) FROM answer WHERE participant = ?", (participant,))[0][0]

    def position(self, participant, trial):
        """The place that a participant chose in a trial, or None."""
        query = "SELECT position FROM answer WHERE participant = ? AND trial = ?"
        found = self._rows(query, (participant, trial))
        return found[0][0] if found else None

    def withdraw(self, participant):
        """Removes a participant with all answers; the number is free for the next newcomer."""
        with self._transaction() as db:
            db.execute("DELETE FROM answer WHERE participant = ?", (participant,))
            db.execute("DELETE FROM participant WHERE number = ?", (participant,))

    def finished(self):
        """How many participants have answered every trial."""
        return self._rows("SELECT count(*) FROM participant WHERE finished")[0][0]

    def participants(self):
        """Dicts for the person in charge: number, origin, joined, seen, finished, answers, failed checks."""
        query = """SELECT number, origin, joined, seen, finished, count(trial),
            coalesce(sum(kind = 'attention' AND NOT correct), 0)
            FROM participant LEFT JOIN answer ON participant = number GROUP BY number ORDER BY number"""
        names = ("number", "origin", "joined", "seen", "finished", "answers", "failed")
        return [dict(zip(names, row)) for row in self._rows(query)]

    def answers(self):
        """Every answer, a dict of "origin" and ANSWER, by participant and trial."""
        return [dict(zip(("origin", *ANSWER), row)) for row in self._rows(QUERY)]

    def close(self):
        with self._lock:
            self._db.close()


def hashed(token):
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()

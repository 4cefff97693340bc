"""Who works in an output folder: one job at a time, whose processes share its measurements among them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitwright.errors import StoreError

BEAT_SECONDS = 5.0
"""How often a process says that it is still there."""
EXPIRES_SECONDS = 60.0
"""After so long without a word a process counts as dead; on the same machine it does as soon as it is gone."""
SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS owners (
    id      TEXT PRIMARY KEY,
    job     TEXT NOT NULL,
    command TEXT NOT NULL,
    host    TEXT NOT NULL,
    process INTEGER NOT NULL,
    born    TEXT NOT NULL,
    beat    REAL NOT NULL
) WITHOUT ROWID
""",
    "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS results (name TEXT PRIMARY KEY, command TEXT NOT NULL) WITHOUT ROWID",
)


class Owners:
    """One process's part in an output folder: the job that it works on, and what it has claimed.

    A thread tells every few seconds that the process is there. What a dead process claimed is free again.

    Args:
        connection: to the run store, for this object alone; nothing that is written through it needs to survive a
            power cut.
        folder: the output folder, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self.connection, self._folder = connection, folder
        self.id, self._host = secrets.token_hex(8), socket.gethostname()
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._heart: threading.Thread | None = None
        self._job = self._command = ""

    def own(self, job: str, command: str) -> None:
        """Take the folder for a job; further processes of the same job may do so, too.

        Raises:
            StoreError: another job works there.
        """
        with self.exclusive():
            self._check(job)
            self._job, self._command = job, command
            self._tell()

    def claim(self, key: str) -> bool:
        """Say that this process measures what belongs to a key; False where another one that is alive does."""
        with self.exclusive():
            row = self.connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
            if row is not None and row[0] != self.id and row[0] in self._alive():
                return False
            self._tell()
            self.connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, self.id))
            return True

    def release(self, key: str) -> None:
        """Give a claim back."""
        with self.exclusive():
            self.connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self.id))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """A block in which no other process changes anything in the store; what it wrote counts when it ends well."""
        with self._lock, transaction(self.connection):
            yield

    def tell(self) -> set[str]:
        """Say that this process works here, inside of :meth:`exclusive`; the names of all that do."""
        self._tell()
        return set(self._alive())

    def check(self) -> None:
        """Raise :class:`StoreError` where the folder was taken over, e.g. while this process was suspended."""
        self._check(self._job)

    def close(self) -> None:
        """Give everything back."""
        self._closed.set()
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._heart is not None:
                with self.exclusive():
                    self.connection.execute("DELETE FROM claims WHERE owner = ?", (self.id,))
                    self.connection.execute("DELETE FROM owners WHERE id = ?", (self.id,))
            self.connection.close()

    def _check(self, job: str) -> None:
        for name, (other, command, host, process) in self._alive().items():
            if job and other not in ("", job) and name != self.id:
                raise StoreError(
                    f"the output folder '{self._folder}' is in use by `{command}` (process {process} on {host}); wait "
                    "until that is done, or choose another folder with --output"
                )

    def _alive(self) -> dict[str, tuple[str, str, str, int]]:
        """Every process that is alive: job, command, machine and number; the dead ones and their claims are removed."""
        found, now = {}, time.time()
        for name, job, command, host, process, born, beat in self.connection.execute("SELECT * FROM owners").fetchall():
            gone = host == self._host and os.name == "posix" and _born(process) != born
            if name == self.id or not (gone or now - beat > EXPIRES_SECONDS):
                found[name] = (job, command, host, process)
            else:
                self.connection.execute("DELETE FROM claims WHERE owner = ?", (name,))
                self.connection.execute("DELETE FROM owners WHERE id = ?", (name,))
        return found

    def _tell(self) -> None:
        process = os.getpid()
        row = (self.id, self._job, self._command, self._host, process, _born(process), time.time())
        self.connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="bitwright-owner", daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with self._lock, contextlib.suppress(sqlite3.Error):
                if not self._closed.is_set():
                    self.connection.execute("UPDATE owners SET beat = ? WHERE id = ?", (time.time(), self.id))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A block whose writes count together when it ends well, and not at all when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _born(process: int) -> str:
    """When a process of this machine was started, where the system tells; "" where there is none, or it is dead."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "alive"

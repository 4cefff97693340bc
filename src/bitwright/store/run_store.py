"""The run store: measurements by key in one SQLite file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from bitwright.errors import StoreError
from bitwright.files import store_error
from bitwright.store.base import Store
from bitwright.store.owners import SCHEMA, Owners, transaction
from bitwright.store.results import beside, clear, complete, is_unfinished, remove_abandoned, take_places

STORE_NAME = "bitwright.sqlite"
SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0
_WAIT_SECONDS = 0.1
_APPLICATION_ID = 0x42575247  # "BWRG" in the file's header: says that SQLite file is ours
_IDENTITY = """
SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
       (SELECT COUNT(*) FROM sqlite_master)
"""
_SCHEMA = """
CREATE TABLE measurements (
    key     TEXT PRIMARY KEY,
    kind    TEXT NOT NULL,
    payload TEXT NOT NULL,
    created REAL NOT NULL,
    digest  TEXT
) WITHOUT ROWID
"""
_READ = "SELECT payload, digest FROM measurements WHERE key = ?"


def _digest(key: str, text: str) -> str:
    """Tells a record whose bytes are no longer those that were written."""
    return hashlib.sha256(f"{key} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


class RunStore(Store):
    """Measurements of a run, by key, in ``bitwright.sqlite`` of a folder.

    A record that :meth:`put` acknowledged by returning is there for good: it survives ``kill -9`` of this
    process, and a power cut (write-ahead log with ``synchronous=FULL``: one flush a record, some
    milliseconds, beside measurements that take far longer). Any number of processes may read and write the
    same store at once; a writer waits up to a minute for the others. One object may be used from several
    threads, and is opened anew where it is unpickled.

    Args:
        folder: the output folder, made when it is missing.

    Raises:
        StoreError: the file is not a run store, is damaged, comes from a newer Bitwright, or cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / STORE_NAME
        self._lock = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the output folder '{self.folder}': {error.strerror}; choose another one"
            ) from None
        with self._errors():
            self._connection = self._connect()
        try:
            with self._errors():
                self._open()
                self._owners = self._owners_of()
                self._finish()
        except BaseException:
            self._connection.close()
            raise

    def get(self, key: str) -> dict[str, Any] | None:
        """The measurement under ``key``, or None.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._lock, self._errors():
            row = self._connection.execute(_READ, (key,)).fetchone()
        return None if row is None else self._decode(key, *row)

    def put(self, key: str, kind: str, payload: Mapping[str, Any]) -> None:
        """Keep a measurement; when this returns, it is on the disk.

        A key names its content, so a second ``put`` under the same key changes nothing: the first stands.

        Raises:
            StoreError: the disk is full, the folder cannot be written, or ``payload`` is not plain data.
        """
        try:
            text = json.dumps(dict(payload))
        except (TypeError, ValueError) as error:
            raise StoreError(f"the {kind} measurement cannot be stored: {error}") from None
        with self._lock, self._errors(), transaction(self._connection):
            self._connection.execute(
                "INSERT INTO measurements (key, kind, payload, created, digest) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO NOTHING",
                (key, kind, text, time.time(), _digest(key, text)),
            )

    @contextmanager
    def claimed(self, key: str) -> Iterator[None]:
        """A block in which no other process works on a key; waits for one that does, until it is done or dead."""
        while not self._claim(key):
            time.sleep(_WAIT_SECONDS)
        try:
            yield
        finally:
            with self._errors():
                self._owners.release(key)

    def attempt(self, key: str, kind: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any] | None:
        """As :meth:`get_or_compute`, but None at once where another process is computing it."""
        found = self.get(key)
        return self.get_or_compute(key, kind, compute) if found is None and self._claim(key) else found

    def _claim(self, key: str) -> bool:
        with self._errors():
            return self._owners.claim(key)

    def own(self, job: str, command: str) -> None:
        """Take the folder for a job, until this object is closed.

        Args:
            job: names it by its content: several processes of the same job may work here at once, and share the work.
            command: how the job is called in messages.

        Raises:
            StoreError: another job works here.
        """
        with self._errors():
            self._owners.own(job, command)

    @contextmanager
    def results(self, command: str) -> Iterator[Path]:
        """A folder for the result files of a command, which take their places together when the block ends well.

        What the same command wrote here before and does not write now is removed then. When the block raises, or the
        process is killed in it, everything stays as it was.

        Raises:
            StoreError: the disk is full, the folder cannot be written, or another job has taken it over.
        """
        part = beside(self.folder, self._owners.id)
        try:
            with self._errors(), self._owners.exclusive():
                remove_abandoned(self.folder, self._owners.tell() - {self._owners.id})
            part.mkdir()
            yield part
            with self._errors(), self._owners.exclusive():
                self._owners.check()
                take_places(self.folder, self._owners.connection)
                clear(self.folder)
                complete(part, command)
            self._finish()
        except StoreError as error:
            raise StoreError(str(error).replace(str(part), str(self.folder))) from None
        except OSError as error:
            raise store_error(error, self.folder) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def close(self) -> None:
        """Close the file; further calls raise :class:`StoreError`."""
        self._owners.close()
        self._connection.close()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (RunStore, (self.folder,))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def _owners_of(self) -> Owners:
        connection = self._connect()
        connection.execute("PRAGMA synchronous = NORMAL")
        known = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name IN ('owners', 'claims', 'results')")
        if known.fetchone()[0] < len(SCHEMA):
            with transaction(connection):
                for table in SCHEMA:
                    connection.execute(table)
        return Owners(connection, self.folder)

    def _finish(self) -> None:
        """Put results in their places that a process has completed."""
        if is_unfinished(self.folder):
            with self._owners.exclusive():
                take_places(self.folder, self._owners.connection)
            with self._owners.exclusive():  # after what was written about them counts
                clear(self.folder)

    def _open(self) -> None:
        # What the file is gets checked before anything is written to it: a foreign file stays untouched.
        if self._identity() is None:
            with transaction(self._connection):
                if self._identity() is None:  # another process may have made it meanwhile
                    self._connection.execute(_SCHEMA)
                    self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._use_write_ahead_log()
        self._connection.execute("PRAGMA synchronous = FULL")
        columns = self._connection.execute("SELECT name FROM pragma_table_info('measurements')").fetchall()
        if columns and ("digest",) not in columns:  # of an earlier version, whose records have none
            with contextlib.suppress(sqlite3.OperationalError), transaction(self._connection):
                self._connection.execute("ALTER TABLE measurements ADD COLUMN digest TEXT")
        self._connection.execute("SELECT digest FROM measurements LIMIT 1").fetchone()

    def _identity(self) -> int | None:
        """The schema version of the file, None when it is empty; StoreError when it is not ours."""
        # One statement sees one state of the file, also while another process is making the store.
        application, version, tables = self._connection.execute(_IDENTITY).fetchone()
        if not application and not version and not tables:
            return None
        if application != _APPLICATION_ID:
            raise StoreError(
                f"'{self.path}' is an SQLite file of another program; move it away or choose another output folder"
            )
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"'{self.path}' was written by a newer Bitwright (store version {version}, this one reads "
                f"{SCHEMA_VERSION}); upgrade bitwright or choose another output folder"
            )
        return int(version)

    def _use_write_ahead_log(self) -> None:
        # The switch to WAL does not wait for other connections by itself, so it is tried again here. Where the
        # file system has no shared memory, SQLite keeps its rollback journal, which is as safe but slower.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _decode(self, key: str, text: Any, digest: Any) -> dict[str, Any]:
        try:
            payload = json.loads(text) if digest in (None, _digest(key, text)) else None
        except (TypeError, ValueError, AttributeError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            raise StoreError(
                f"the record '{key}' in '{self.path}' is damaged; move the file away and run the same command again"
            )
        return payload

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into one line with the way out."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:  # the last two: text that is damaged
            raise StoreError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        text = " ".join(str(error).split())
        if "full" in text:
            return (
                f"the disk is full: cannot write to the run store in '{self.folder}'; free some space or choose "
                "another output folder, then run the same command again (everything stored so far is kept)"
            )
        damage = ("not a database", "malformed", "no such", "decode", "corrupt", "unsupported", "too large", "schema")
        if any(word in text for word in damage):
            return f"'{self.path}' is damaged or not a run store ({text}); move it away or choose another output folder"
        if "locked" in text or "busy" in text:
            return (
                f"the run store '{self.path}' was locked by another process for {BUSY_SECONDS:.0f} seconds; "
                "wait for that process or choose another output folder"
            )
        if "readonly" in text or "unable to open" in text:
            return f"cannot write '{self.path}' ({text}); check its permissions or choose another output folder"
        return f"the run store '{self.path}' failed: {text}; choose another output folder or free space there"

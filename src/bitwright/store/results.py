"""The result files of a command: they change together, and what it wrote before and does not write now is gone.

They are written into a folder beside. When all are there, that folder gets the name of :data:`READY`: from then on they
count, and whoever opens the output folder next finishes what a killed process has begun. The old ones go before the
first new one comes, so that files of two runs never stand side by side.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

from bitwright.files import flush, flush_folder

READY = ".bitwright.results"
_CONTENTS = ".contents.json"


def beside(folder: Path, owner: str) -> Path:
    """The folder that a process writes its results into."""
    return folder / f"{READY}-{owner}"


def remove_abandoned(folder: Path, alive: set[str]) -> None:
    """Remove what dead processes were writing."""
    for part in folder.glob(f"{READY}-*"):
        if part.name.removeprefix(f"{READY}-") not in alive:
            shutil.rmtree(part, ignore_errors=True)


def complete(part: Path, command: str) -> None:
    """Make what was written count: whatever happens from here on, these files take their places."""
    names = sorted(file.name for file in part.iterdir())
    contents = part / _CONTENTS
    contents.write_text(json.dumps({"command": command, "names": names}), encoding="utf-8")
    flush(contents)
    flush_folder(part)
    os.replace(part, part.with_name(READY))
    flush_folder(part.parent)


def is_unfinished(folder: Path) -> bool:
    """Whether results wait for their places."""
    return (folder / READY).is_dir()


def take_places(folder: Path, connection: sqlite3.Connection) -> None:
    """Put the results that wait for it in their places; inside of a transaction, and as often as one likes.

    Raises:
        OSError: the folder cannot be written.
    """
    ready = folder / READY
    if not ready.is_dir():
        return
    contents = json.loads((ready / _CONTENTS).read_text(encoding="utf-8"))
    command, names = str(contents["command"]), [str(name) for name in contents["names"]]
    rows = connection.execute("SELECT name FROM results WHERE command = ?", (command,)).fetchall()
    old = {str(name) for (name,) in rows if Path(str(name)).name == name}
    for name in old.union(names, *(_companions(folder, name) for name in names)):
        if name not in names or (ready / name).exists():
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    for name in names:
        if (ready / name).exists():
            os.replace(ready / name, folder / name)
    flush_folder(folder)
    connection.execute("DELETE FROM results WHERE command = ?", (command,))
    connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", [(name, command) for name in names])


def clear(folder: Path) -> None:
    """Forget results that have all taken their places."""
    ready = folder / READY
    if not any(file.name != _CONTENTS for file in ready.glob("*")):
        shutil.rmtree(ready, ignore_errors=True)


def _companions(folder: Path, name: str) -> set[str]:
    """Files that belong to one by their names, ``recipe-1a2b3c4d.npz`` to ``recipe.json``, and go with it."""
    pattern = re.compile(rf"{re.escape(Path(name).stem)}-[0-9a-f]{{8}}\.npz")
    return {file.name for file in folder.glob("*.npz") if pattern.fullmatch(file.name)}

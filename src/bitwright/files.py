"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitwright.errors import StoreError

_STALE_SECONDS = 3600.0


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` (text as UTF-8) so that a reader sees the old file or the new one, never a part.

    Raises:
        StoreError: the disk is full, or the folder cannot be written; what stood there before still does.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_files(path) as part:
        part.write_bytes(content)
    return Path(path)


def read_bounded(path: str | Path, most: int) -> bytes:
    """The content of an ordinary file that is no larger than this many bytes.

    Raises:
        OSError: it cannot be read, it is larger, or it is something else, such as a pipe, which might never end.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not an ordinary file")
    if found.st_size > most:
        raise OSError(f"it has {found.st_size:,} bytes, more than the {most:,} that are read")
    return Path(path).read_bytes()


@contextmanager
def atomic_files(path: str | Path) -> Iterator[Path]:
    """A path of the same name, in a folder beside, to write to: alone or with further files beside it.

    When the block ends well they take the places of those in the folder of ``path``, ``path`` itself last, so that who
    finds it finds the others. Content is flushed to the disk before that and the folder after it, so that a power cut
    leaves the old file or the new one. When the block raises, everything there stays as it was.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    target = Path(path)
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        _remove_stale_parts(target)
        folder.mkdir(parents=True)
        yield folder / target.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        for file in written:
            flush(file)
            os.replace(file, target.with_name(file.name))
        flush_folder(target.parent)
    except OSError as error:
        raise store_error(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def store_error(error: OSError, target: Path) -> StoreError:
    """What stopped a file or a folder from being written, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"the disk is full: cannot write '{target}'; free some space in '{target.parent}' or choose another "
            "output folder, then run the same command again"
        )
    return StoreError(f"cannot write '{target}': {error.strerror or error}; choose another output folder")


def flush(path: Path, flags: int = os.O_RDWR) -> None:
    """Have a file's content on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    if os.name == "posix":  # a folder cannot be opened elsewhere
        flush(folder, os.O_RDONLY)


def _remove_stale_parts(target: Path) -> None:
    """Remove what a killed process left of this file more than an hour ago."""
    for part in target.parent.glob(f".{target.name}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(part) if part.is_dir() else part.unlink()

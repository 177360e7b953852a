"""Folders that users name for results."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from bgm_pipeline.errors import InputError


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, unless it is there.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no such folder can be made ({error.strerror}); name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written to; name another folder")


@contextmanager
def writing(path: Path, cure: str) -> Iterator[None]:
    """Names the file that cannot be written, and the cure.

    Raises:
        InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); {cure}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place once it is whole; until then what was there stays.

    Devices and pipes are written to as they are, and a file in a folder that takes no other.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    with taking_its_place(path) as partial:
        try:
            whole = partial.open("xb")
        except PermissionError:  # nothing can be made beside it, but what is there may be written to
            with path.open("wb") as file:
                yield file
            return
        with whole:
            yield whole


@contextmanager
def taking_its_place(path: Path) -> Iterator[Path]:
    """A name beside a file, free yet: what is written there takes its place once it is whole.

    Raises:
        OSError: it cannot take the place.
    """
    place = path.resolve()
    mode = place.stat().st_mode & 0o777 if place.exists() else None  # a name that is too long fails here
    partial = place.with_name(f".bgm-{uuid4().hex}")
    try:
        yield partial
        if partial.exists():
            if mode is not None:
                partial.chmod(mode)
            partial.replace(place)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Sees that one process at a time is at work in the folder of a file, which is made and stays.

    The lock is the process's own: it goes when that dies, however it does, and its children do not hold it.

    Raises:
        InputError: another process holds it; `otherwise` says what that is, and the cure.
    """
    with lock.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{lock.parent}: {otherwise}") from None
        yield

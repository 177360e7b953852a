"""Folders that users name for results."""

import os
from pathlib import Path

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

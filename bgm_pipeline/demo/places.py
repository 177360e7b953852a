"""How a demo's store is asked, and where it lies, as it would be typed."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from bgm_pipeline.settings import Settings


def bgm(settings: Settings) -> str:
    """What a command for a demo's store begins with, whatever the user's own settings are; it works as it is
    pasted."""
    unset = "".join(f"{name}= " for name in ("BGM_DATABASE_URL", "BGM_STEM_STORE") if os.environ.get(name))
    program = "bgm" if _on_path() else shlex.quote(typed(Path(sys.executable).with_name("bgm")))
    return f"BGM_DATA_DIR={shlex.quote(typed(settings.data_dir))} {unset}{program}"


def typed(path: Path) -> str:
    """Below the working folder as it would be typed there; else absolute."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _on_path() -> bool:
    found = shutil.which("bgm")
    return found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()

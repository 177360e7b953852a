"""Where a demo keeps its data, as it would be typed."""

import os
import shlex
from pathlib import Path

from bgm_pipeline.settings import Settings


def variables(settings: Settings) -> str:
    """What a command has to begin with to work on a demo's store, whatever the user's own settings are."""
    unset = "".join(f"{name}= " for name in ("BGM_DATABASE_URL", "BGM_STEM_STORE") if os.environ.get(name))
    return f"BGM_DATA_DIR={shlex.quote(typed(settings.data_dir))} {unset}"


def typed(path: Path) -> str:
    """Below the working folder as it would be typed there; else absolute."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""Which Prefect server is meant: that of PREFECT_API_URL, or the one that `bgm up` started last.

Nothing here imports Prefect, which reads its settings when it is imported: call `use_server` before.
"""

import os
from pathlib import Path

from bgm_pipeline.settings import Settings

DEFAULT_URL = "http://127.0.0.1:4200/api"


def prefect_home(settings: Settings) -> Path:
    """Where `bgm up` keeps the server's database, the results of tasks and the logs."""
    return settings.data_dir.absolute() / "prefect"


def url_file(settings: Settings) -> Path:
    """Holds the URL of the API that `bgm up` started last."""
    return prefect_home(settings) / "api_url"


def use_server(settings: Settings) -> str:
    """Makes Prefect's client, which must not be imported yet, talk to the server that is meant; its URL."""
    if not (url := os.environ.get("PREFECT_API_URL")):
        file = url_file(settings)
        url = file.read_text().strip() if file.is_file() else DEFAULT_URL
        os.environ["PREFECT_API_URL"] = url
    if "PREFECT_HOME" not in os.environ:
        os.environ["PREFECT_HOME"] = str(prefect_home(settings))
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    return url

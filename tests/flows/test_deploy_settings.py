"""What the files in `deploy/` say to Prefect is what this Prefect understands."""

import re
from pathlib import Path

from prefect.settings.legacy import _get_valid_setting_names
from prefect.settings.models.root import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_every_variable_of_prefect_is_one_that_it_reads() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    named = {name for path in files for name in re.findall(r"\bPREFECT_[A-Z_]+\b", path.read_text())}
    assert "PREFECT_API_URL" in named
    ours = {"PREFECT_DATABASE_PASSWORD"}  # a line of .env, which compose puts into a URL
    assert named - ours <= _get_valid_setting_names(Settings)

"""docs/settings.md tells every setting as it is; wrong and empty values are what a user expects."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from bgm_pipeline.errors import InputError
from bgm_pipeline.settings import Settings, load_settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
UNITS = {"s": "s", "db": "dB", "days": "d"}


def rows(model: type[BaseModel] = Settings, prefix: str = "BGM_") -> Iterator[str]:
    """The table's rows, after the code."""
    for name, setting in model.model_fields.items():
        if isinstance(setting.default, BaseModel):
            yield from rows(type(setting.default), f"{prefix}{name.upper()}__")
            continue
        default = "" if setting.default is None else str(setting.default)
        if setting.default_factory is not None:
            default = "~/.local/share/bgm"
        escaped = default.replace("|", r"\|")
        shown = f"`{escaped}`" if default else ""
        unit = UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""
        yield f"| `{prefix}{name.upper()}` | {shown} | {unit} | {setting.description} |"


def test_every_setting_is_documented_as_it_is_and_no_other() -> None:
    told = re.findall(r"^\| `BGM_.*$", DOCUMENT.read_text(), re.MULTILINE)
    assert told == list(rows())
    assert len(told) > 20


def test_a_file_in_the_working_folder_is_read_and_the_environment_counts_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("BGM_DETECTION__ONSET=0.9\nBGM_THREADS=3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BGM_THREADS", "2")
    settings = load_settings(device="cpu", model=None)
    assert settings.detection.onset == 0.9
    assert settings.threads == 2
    assert settings.device == "cpu"
    assert settings.model == "auto"


def test_what_is_no_setting_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".env").write_text("BGM_DETECTION__ONSETT=0.9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BGM_INBOX_TIME_ZONE", "Asia/Tokyo")
    monkeypatch.setenv("BGM_MEDIA", '{"block_s": 3}')
    load_settings()
    assert caplog.messages == [
        "BGM_DETECTION__ONSETT has no effect: there is no such setting; is BGM_DETECTION__ONSET meant?",
        "BGM_INBOX_TIME_ZONE has no effect: there is no such setting; is BGM_INBOX__TIME_ZONE meant?",
    ]


def test_an_empty_path_is_none_and_not_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGM_CALIBRATION", "")
    monkeypatch.setenv("BGM_INBOX__FOLDER", "")
    assert load_settings().calibration is None
    assert load_settings().inbox.folder is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BGM_THREADS", "-1"),
        ("BGM_SEPARATION__BATCH_SIZE", "many"),
        ("BGM_SEPARATION__CONTEXT_S", "0.1"),
        ("BGM_INBOX__NAME_TIME_ZONE", "local"),
        ("BGM_KEEP", "nothing"),
        ("BGM_DETECTION__MIN_DURATION_OFF_S", "13"),
        ("BGM_NIGHT__CRON", "bad"),
        ("BGM_NIGHT__CRON", " "),
        ("BGM_NIGHT__CHECK_CRON", "0 25 * * *"),
        ("BGM_NIGHT__RETENTION_CRON", "0 5 * * * *"),
        ("BGM_NIGHT__REPORT_CRON", "0 6 LW * *"),
        ("BGM_NIGHT__TIME_ZONE", "Europe/Pariss"),
        ("BGM_NIGHT__TIME_ZONE", "local"),
        ("BGM_NIGHT__OLD_RUNS_KEPT_DAYS", "1e9"),
        ("BGM_NIGHT__FLOW_RUNS_KEPT_DAYS", "1e9"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"^{variable}: .*change it"):
        load_settings()

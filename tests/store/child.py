"""What processes of their own do with a store, until they are killed where it is told."""

import json
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store import lease
from bgm_pipeline.store.repository import EpisodeBusyError
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode
from store.samples import add_episode, add_programme, add_run, identity, make_result, music, write_stems

LEVELS = (1.0, None, -4.0)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_rename(name: str, arguments: tuple[Any, ...]) -> None:
    if name == "os.rename" and str(arguments[0]).endswith(".tmp"):
        die()


def run_until(settings: Settings, point: str, model: str) -> None:
    """One run of the episode a.ts that is killed at `point`."""
    with open_store(settings) as store:
        episode_id = add_episode(store, "a.ts")
        run_id = store.start_run(episode_id, identity("a.ts", model))
        if point == "after start_run":
            die()
        writer = store.stems.begin(episode_id, run_id)
        if point == "inside a stem":
            sys.addaudithook(die_before_rename)
        if point == "between stems":
            write_stems(writer, LEVELS[:1])
            die()
        write_stems(writer, LEVELS)
        result = make_result(writer, LEVELS)
        if point == "before finish_run":
            die()
        if point == "before the commit":
            event.listen(store.engine, "commit", die)
        if point == "after the commit":
            event.listen(Session, "after_commit", die)
        store.finish_run(run_id, result)


def write_many(settings: Settings, name: str, count: int) -> None:
    """`count` episodes of one's own, and as many attempts at the one that all processes want."""
    with open_store(settings) as store:
        for number in range(count):
            add_programme(store, f"{name}-{number}.ts", LEVELS)
            with suppress(EpisodeBusyError):
                add_run(store, add_episode(store, "shared.ts"), identity("shared.ts"), LEVELS)


def finish_late(settings: Settings, folder: Path) -> None:
    """One run of the episode a.ts that goes on when `folder` has a file "go"; writes what became of it."""
    with open_store(settings) as store:
        episode_id = add_episode(store, "a.ts")
        run_id = store.start_run(episode_id, identity("a.ts"))
        writer = store.stems.begin(episode_id, run_id)
        write_stems(writer, LEVELS)
        (folder / "begun").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        try:
            writer.write(7, music(7))
            store.finish_run(run_id, make_result(writer, LEVELS))
            told = "finished"
        except StoreError as error:
            told = str(error)
            with suppress(StoreError):
                store.fail_run(run_id, told)
        (folder / "told").write_text(told)


def work_through(
    settings: Settings, machine: str, paths: list[Path], folder: Path, environment: dict[str, str]
) -> None:
    """What a worker on a machine of its own does: process all files; writes which ones it did itself."""
    from bgm_pipeline.pipeline import Networks, process_episode  # noqa: PLC0415 - brings torch

    os.environ.update(environment)
    folder.mkdir()
    os.chdir(folder)
    lease._machine = lambda: machine
    networks, did, left = Networks(settings), list[str](), deque(paths)
    with open_store(settings) as store:
        while left:
            path = left.popleft()
            try:
                done = process_episode(Episode(path), store, networks, settings)
            except EpisodeBusyError:
                left.append(path)
                time.sleep(0.02)
                continue
            did += [path.name] if done.is_new else []
    (folder / "did.json").write_text(json.dumps(did))

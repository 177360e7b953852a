"""What processes of their own do with a store, until they are killed where it is told."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from bgm_pipeline.settings import Settings
from bgm_pipeline.store.repository import EpisodeBusyError
from bgm_pipeline.store.session import open_store
from store.samples import add_episode, add_programme, add_run, identity, make_result, write_stems

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

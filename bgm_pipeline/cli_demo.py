"""``bgm demo`` and ``bgm timeline``."""

from pathlib import Path
from typing import Annotated

import typer

from bgm_pipeline.cli_ask import EpisodeArgument


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(demo)
    app.command()(timeline)


def demo(
    folder: Annotated[Path, typer.Option(help="where all of it is kept, with a database of its own")] = Path(
        "build/demo"
    ),
) -> None:
    """Makes a broadcast whose truth is known, finds its music, and shows both; exit code 1 if they differ."""
    from rich.console import Console

    from bgm_pipeline.demo.show import run_demo

    if not run_demo(folder, Console()):
        raise typer.Exit(1)


def timeline(
    episode: EpisodeArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write: .png, .svg or .pdf")],
) -> None:
    """Draws an episode over time: its level, its music, how likely each segment holds music, the events."""
    from bgm_pipeline.evaluation.timeline import draw, timeline_of
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store

    settings = load_settings()
    with open_store(settings, make=False) as store:
        draw(timeline_of(store, episode, settings), out)

"""Progress bars; the core only calls a function and does not know that it is a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from bgm_pipeline.pipeline import Progress as PipelineProgress
    from bgm_pipeline.training.loop import Progress as TrainingProgress


@contextmanager
def counting_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for things that are counted; gives a function of (description, done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)

        def show(description: str, done: int, total: int) -> None:
            bar.update(task, description=description, completed=done, total=total)

        yield show


@contextmanager
def training_bar(what: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar for a training; gives a function that takes its progress."""
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %  {task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=1.0, now="")

        def show(p: TrainingProgress) -> None:
            now = (
                f"step {p.step}  {p.audio_s / 60:.0f} min of audio  loss {p.loss:.4f}  valid {p.quality:.2f}"
            )
            bar.update(task, completed=p.done, now=now)

        yield show


@contextmanager
def programme_bar(name: str) -> Iterator[PipelineProgress]:
    """A bar for one programme; gives a function that takes the pipeline's progress."""
    columns = (
        TextColumn("{task.fields[stage]:<8} {task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, stage="", speed="")

        def show(stage: str, done_s: float, total_s: float | None) -> None:
            elapsed_s = bar.tasks[task].elapsed or 0.0
            speed = f"{done_s / elapsed_s:.1f} x real time" if done_s and elapsed_s else ""
            bar.update(task, stage=stage, speed=speed, completed=done_s, total=total_s)

        yield show

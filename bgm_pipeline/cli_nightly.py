"""``bgm nightly``."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer


class Stopped(KeyboardInterrupt):
    """The program was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(nightly)


def nightly(
    inbox: Annotated[
        Path | None, typer.Argument(help="folder where files arrive; else BGM_INBOX__FOLDER")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, do nothing")] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help="process so many files at most, copies not counted")
    ] = None,
    format: Annotated[Literal["table", "json"], typer.Option(help="of the report")] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write the report to a file")] = None,
) -> None:
    """Processes every new file of an inbox once; run again, it goes on. Exit code 1 if something failed."""
    import json

    from bgm_pipeline.errors import InputError
    from bgm_pipeline.inbox import FoundFile
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.night_report import NightReport, NightRow
    from bgm_pipeline.nightly import over_limit_row, plan_night, process_found, run_nightly
    from bgm_pipeline.pipeline import Networks
    from bgm_pipeline.progress import programme_bar
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store

    settings = load_settings()
    folder = inbox or settings.inbox.folder
    if folder is None:
        raise InputError("no inbox is named; write bgm nightly FOLDER, or set BGM_INBOX__FOLDER")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"{shown(out)}: there is no such folder; make it, or name another file")

    def tell(row: NightRow) -> None:
        if row.outcome in ("new", "failed", "busy"):
            said = row.reason if row.outcome != "new" and row.reason else shown(row.file)
            typer.echo(f"{row.outcome}: {said}", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with open_store(settings) as store:
            networks = Networks(settings)
            if dry_run:
                plan = plan_night(folder, store, networks, settings)
                due = [NightRow(found.file, "due") for found in plan.due[:limit]]
                over = [over_limit_row(found) for found in plan.due[len(due) :]]
                report = NightReport((*plan.rows, *due, *over), plan.errors, plan.notes)
            else:

                def handle(found: FoundFile) -> NightRow:
                    with programme_bar(shown(found.file)) as show:
                        return process_found(found, store, networks, settings, show)

                report = run_nightly(folder, store, networks, settings, limit=limit, handle=handle, tell=tell)
    except Stopped as stopped:
        typer.echo(f"bgm: {stopped}; run it again to go on", err=True)
        raise typer.Exit(128 + stopped.number) from None
    for line in (*report.errors, *report.notes):
        typer.echo(f"bgm: {line}", err=True)
    text = report.to_text() if format == "table" else json.dumps(report.to_records(), indent=1) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            typer.echo(text, nl=False)
            cure = "name another file; the report is on the standard output"
            raise InputError(f"{shown(out)}: cannot be written ({error.strerror}); {cure}") from error
    if report.has_failed:
        raise typer.Exit(1)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)

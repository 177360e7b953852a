"""``bgm up``, ``deploy``, ``status``, ``rerun`` and ``reprocess``: every night by itself, with Prefect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bgm_pipeline.cli_ask import LARGEST, doubt
from bgm_pipeline.timebase import LONGEST_DAYS

if TYPE_CHECKING:
    from bgm_pipeline.night_report import NightRow

Episodes = Annotated[
    list[int] | None,
    typer.Argument(metavar="[EPISODE]...", min=1, max=LARGEST, help="their numbers; see `bgm episodes`"),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (up, deploy, status, rerun, reprocess):
        app.command()(command)


def up(
    inbox: Annotated[
        Path | None,
        typer.Option(help="where files arrive; else BGM_INBOX__FOLDER, else inbox/ beside the data"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; another one lets others in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the UI")] = 4200,
    workers: Annotated[int, typer.Option(min=0, help="worker processes")] = 1,
    now: Annotated[bool, typer.Option("--now", help="look through the inbox at once, too")] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="with demo broadcasts, one of them damaged; all of it beside the data"),
    ] = False,
) -> None:
    """Starts Prefect's server, the deployments and a worker, and keeps them running until Ctrl-C."""
    from bgm_pipeline.settings import load_settings
    from flows.up import AUTH, DATABASE_URLS, Place, run_up

    def say(line: str) -> None:
        typer.echo(f"bgm: {line}", err=True)

    settings = load_settings()
    if demo:
        from bgm_pipeline.demo.inbox import make_inbox
        from bgm_pipeline.demo.places import bgm

        settings = load_settings(data_dir=settings.data_dir / "demo", database_url="", stem_store="")
        inbox = settings.data_dir / "inbox"
        say(make_inbox(inbox))
        say(f"look at it with: {bgm(settings)} status")
    place = Place(host, port)
    if not place.is_loopback and AUTH not in os.environ:
        say(f"{host} lets others in, who can then start programs here; set {AUTH}, see docs/nightly.md")
    if workers > 1 and not DATABASE_URLS & os.environ.keys():
        say("with several workers Prefect's server wants a PostgreSQL of its own, see docs/nightly.md")
    folder = inbox or settings.inbox.folder or settings.data_dir / "inbox"
    run_up(settings, place, folder, workers=workers, now=now or demo, say=say)


def deploy(
    now: Annotated[bool, typer.Option("--now", help="look through the inbox at once, too")] = False,
) -> None:
    """Makes the Prefect server of PREFECT_API_URL know work pool, deployments, schedules and automations."""
    from bgm_pipeline.settings import load_settings
    from flows.server import use_server

    settings = load_settings()
    url = use_server(settings)
    from flows.deployments import register as register_all
    from flows.operate import server_of

    with server_of(url):
        for line in register_all(settings, now=now):
            typer.echo(line)
    typer.echo(f"registered with {url}", err=True)


def status(
    hours: Annotated[
        float, typer.Option(min=0, max=24 * LONGEST_DAYS, help="the night: so many hours back")
    ] = 24,
    format: Annotated[Literal["table", "json"], typer.Option(help="of the answer")] = "table",
) -> None:
    """Shows server, workers, queue, and what became of the night; exit code 1 if no worker is there."""
    import json
    from datetime import UTC, datetime, timedelta

    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store
    from flows.server import use_server

    settings = load_settings()
    zone = settings.inbox.zone
    since = (datetime.now(UTC) - timedelta(hours=hours)).astimezone(zone)
    url = use_server(settings)
    with open_store(settings, make=False) as store:
        from flows.operate import status as status_of

        found = status_of(store, url, since)
    typer.echo(json.dumps(found.to_record(), indent=1) if format == "json" else found.to_text())
    if not found.is_well:
        raise typer.Exit(1)


def rerun(
    episodes: Episodes = None,
    failed: Annotated[bool, typer.Option("--failed", help="all whose newest run failed")] = False,
    since: Annotated[
        str | None, typer.Option(help="only those whose run began at or after: 2026-03-31, 2026-03-31 20:15")
    ] = None,
) -> None:
    """Lets failed episodes run again, as Retry in Prefect's UI does; exit code 1 if one cannot."""
    from datetime import datetime, time

    from bgm_pipeline.errors import InputError
    from bgm_pipeline.filters import parse_moment
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store
    from flows.server import use_server

    if bool(episodes) == (failed or since is not None):
        raise InputError(
            "name episodes, or write --failed or --since; bgm episodes --state failed lists them"
        )
    settings = load_settings()
    url = use_server(settings)
    with open_store(settings, make=False) as store:
        from flows.operate import failed_episodes
        from flows.operate import rerun as run_again

        numbers = episodes or []
        if not episodes:
            zone = settings.inbox.zone
            day = parse_moment(since, zone, doubt) if since else None
            moment = day if day is None or isinstance(day, datetime) else datetime.combine(day, time(), zone)
            numbers = failed_episodes(store, url, moment)
        _tell(run_again(store, settings, url, numbers))


def reprocess(
    episodes: Episodes = None,
    channel: Annotated[str | None, typer.Option(help="all of this channel; its exact name")] = None,
    since: Annotated[str | None, typer.Option(help="all on air at or after: 2026-03-31")] = None,
    until: Annotated[str | None, typer.Option(help="all on air before; a date means the end of it")] = None,
    every: Annotated[bool, typer.Option("--all", help="all there are")] = False,
    model: Annotated[str | None, typer.Option(help="separation network, or its weights file")] = None,
) -> None:
    """Makes results anew with this model and these settings (BGM_...), beside those that are there."""
    from bgm_pipeline import query
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.filters import parse_moment
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.session import open_store
    from flows.server import use_server

    if bool(episodes) == bool(channel or since or until or every):
        raise InputError("name episodes, or write --channel, --since, --until or --all")
    settings = load_settings(model=model)
    url = use_server(settings)
    with open_store(settings, make=False) as store:
        from flows.operate import reprocess as make_anew

        numbers = episodes or []
        if not episodes:
            zone = settings.inbox.zone
            frame = query.episodes(
                store,
                channel=channel,
                since=parse_moment(since, zone, doubt) if since else None,
                until=parse_moment(until, zone, doubt) if until else None,
                tz=zone,
            )
            numbers = frame["episode_id"].tolist()
        _tell(make_anew(store, settings, url, numbers))


def _tell(rows: Iterator[NightRow]) -> None:
    """Shows rows as they come, and their summary."""
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.night_report import NightReport

    told = []
    for row in rows:
        told.append(row)
        typer.echo(f"{row.outcome}: episode {row.episode_id or '?'}: {row.reason or shown(row.file)}")
    report = NightReport(tuple(told))
    typer.echo(report.summary if told else "no such episode", err=True)
    if report.has_failed:
        raise typer.Exit(1)

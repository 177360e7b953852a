"""``bgm process``, ``bgm separate`` and ``bgm models``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bgm_pipeline.cli_ask import AirStart, first_moment

if TYPE_CHECKING:
    from bgm_pipeline.models.registry import LoadedNetwork
    from bgm_pipeline.settings import Settings

Files = Annotated[list[Path], typer.Argument(help="broadcast files", show_default=False)]
Streams = Annotated[
    list[int] | None,
    typer.Option("--audio-stream", help="which audio stream, see `bgm probe`; mono tracks join"),
]
Join = Annotated[bool, typer.Option("--join", help="join all mono tracks")]
Model = Annotated[
    str | None, typer.Option(help="auto, a separation network, or its weights file; see `bgm models`")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda ...")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(process)
    app.command()(separate)
    app.command()(models)


def process(
    files: Files,
    channel: Annotated[str, typer.Option(help="who broadcast it")] = "",
    title: Annotated[str, typer.Option(help="name of the programme")] = "",
    air_start: AirStart = None,
    audio_stream: Streams = None,
    join: Join = False,
    force: Annotated[bool, typer.Option("--force", help="make results anew that are there")] = False,
    keep: Annotated[Literal["music", "all"] | None, typer.Option(help="which segments' stems")] = None,
    model: Model = None,
    device: Device = None,
) -> None:
    """Finds the music of broadcast files and keeps it in the database. A file that fails stops no other."""
    from bgm_pipeline import query
    from bgm_pipeline.errors import BgmError, InputError
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.pipeline import Networks, process_episode
    from bgm_pipeline.progress import programme_bar
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.store.rows import values_told
    from bgm_pipeline.store.session import open_store
    from bgm_pipeline.timebase import format_timecode, s_to_ms
    from bgm_pipeline.types import Episode

    settings = load_settings(model=model, device=device, keep=keep)
    if air_start and len(files) > 1:
        raise InputError("one --air-start cannot be that of several files; give them one by one")
    channel, title = channel.strip(), title.strip()
    on_air = first_moment(air_start, settings.inbox.zone)
    failed = False
    with open_store(settings) as store:
        networks = Networks(settings)
        for path in files:
            try:
                with programme_bar(shown(path.name)) as show:
                    done = process_episode(
                        Episode(path, channel, title, on_air),
                        store,
                        networks,
                        settings,
                        audio_streams=audio_stream or (),
                        join_tracks=join,
                        force=force,
                        progress=show,
                    )
            except BgmError as error:
                failed = True
                typer.echo(f"bgm: {shown(str(error))}", err=True)
                continue
            row = query.episodes(store, episode_id=done.episode_id, tz=settings.inbox.zone).iloc[0]
            music, total = (format_timecode(s_to_ms(row[name])) for name in ("music_s", "duration_s"))
            known = "" if done.is_new else " (known already; --force makes it anew)"
            typer.echo(f"episode {done.episode_id}: {shown(path.name)}: {music} of music in {total}{known}")
            given = values_told(Episode(path, channel, title, on_air)).items()
            stays = [name for name, value in given if name in row["corrected"] and value != row[name]]
            kept = stays and f"{', '.join(stays)} corrected before, and left so; bgm correct changes that"
            for told in filter(None, (*done.notes, kept, shown(row["damage"]))):
                typer.echo(f"bgm: {shown(path.name)}: {told}", err=True)
    if failed:
        raise typer.Exit(1)


def separate(
    files: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder that NAME.music and NAME.residual go to")],
    model: Model = None,
    format: Annotated[Literal["flac", "wav"], typer.Option(help="32 bit float wav, or 24 bit flac")] = "wav",
    audio_stream: Streams = None,
    join: Join = False,
    device: Device = None,
) -> None:
    """Separates files into music and residual, 16 kHz mono, at the level of the input."""
    from bgm_pipeline.choice import model_of
    from bgm_pipeline.errors import BgmError, InputError
    from bgm_pipeline.media.ffmpeg import shown
    from bgm_pipeline.models import registry
    from bgm_pipeline.pipeline import output_names, separate_file
    from bgm_pipeline.progress import programme_bar
    from bgm_pipeline.separation import Separator
    from bgm_pipeline.settings import load_settings

    settings = load_settings(model=model, device=device)
    names = output_names(files, out, format)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{shown(out)}: cannot be made ({error.strerror}); name another folder") from error
    separator = Separator(registry.load(model_of(settings)), settings)
    failed = False
    for source, (music, residual) in zip(files, names, strict=True):
        try:
            with programme_bar(shown(source.name)) as show:
                report = separate_file(
                    source,
                    music,
                    residual,
                    separator,
                    settings,
                    audio_streams=audio_stream or (),
                    join_tracks=join,
                    progress=show,
                )
        except BgmError as error:
            failed = True
            typer.echo(f"bgm: {shown(str(error))}", err=True)
            continue
        for damage in report.damage:
            typer.echo(f"bgm: {shown(source.name)}: {damage.message} (x {damage.count})", err=True)
        typer.echo(f"{shown(music)}\n{shown(residual)}")
    if failed:
        raise typer.Exit(1)


def models(
    time: Annotated[
        bool, typer.Option("--time", help="measure seconds of separation a segment here, too: slow")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="to choose for and measure on: auto, cpu, cuda ...")
    ] = None,
) -> None:
    """Lists the networks with their cost for a segment of 12 s, and what is known of their weights.

    "auto" stands beside the one that is taken on this machine where none is named. Quality is what
    `bgm evaluate --ship` measured of the weights that ship, on the same mixtures for all.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from bgm_pipeline.choice import AUTO, merits, model_of
    from bgm_pipeline.errors import ModelError
    from bgm_pipeline.evaluation import costs
    from bgm_pipeline.models import cost, registry
    from bgm_pipeline.settings import load_settings

    settings = load_settings(model=AUTO, device=device)
    taken, measured = model_of(settings), merits()
    columns = ["for", "parameters", "GFLOP", *(["s"] if time else []), "weights", "quality", "source"]
    caption = "quality: share of the test split's mixtures whose music was identified, and mean SI-SDR"
    table = Table(Column("network", no_wrap=True), *columns, caption=caption, caption_justify="left")
    if time:
        table.caption = f"{caption}\ns: {costs.unit(settings)}"
    for network in registry.NETWORKS.values():
        try:
            loaded = registry.load(network.name, network.task)
            trained = f"{loaded.metadata.get('hours', '?')} h" if loaded.metadata else "needs none"
        except ModelError:
            loaded = registry.LoadedNetwork(network, network.build().eval(), "random", {})  # costs the same
            trained = "none yet"
        merit = measured.get(network.name)
        quality = f"{merit.identified:.1%} identified, {merit.si_sdr_db:+z.1f} dB SI-SDR" if merit else ""
        row = [f"{cost.parameters(loaded.module):,}", f"{cost.gflop(network):.1f}"]
        if time:
            row.append(f"{_seconds(loaded, settings):.2f}" if network.task == "separation" else "")
        name = f"{network.name} (auto)" if network.name == taken else network.name
        table.add_row(name, network.task, *row, trained, quality, network.source)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _seconds(loaded: LoadedNetwork, settings: Settings) -> float:
    """For a segment, as programmes are separated; no graph of it is kept."""
    from bgm_pipeline.evaluation import costs

    with tempfile.TemporaryDirectory() as folder:
        return costs.seconds(loaded, settings.model_copy(update={"data_dir": Path(folder)}))

"""The ``bgm`` command: reads arguments, calls the package, shows what comes back."""

import sys
from typing import Annotated

import typer

from bgm_pipeline import (
    cli_ask,
    cli_demo,
    cli_evaluate,
    cli_log,
    cli_nightly,
    cli_probe,
    cli_run,
    cli_train,
    cli_up,
)
from bgm_pipeline.errors import BgmError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Which seconds of a broadcast had music in them, and that music, freed from the speech over it.",
)
cli_demo.register(app)
app.command()(cli_probe.probe)
cli_run.register(app)
cli_nightly.register(app)
cli_up.register(app)
cli_ask.register(app)
cli_log.register(app)
app.add_typer(cli_train.corpus_app, name="corpus")
app.command()(cli_train.train)
cli_evaluate.register(app)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"bgm {version('bgm-pipeline')}")
        raise typer.Exit


@app.callback()
def _options(
    is_version_asked: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="tell it, and end")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: an error that a user can act on is one line and exit code 1, never a traceback."""
    try:
        app()
    except BgmError as error:
        from bgm_pipeline.media.ffmpeg import shown

        typer.echo(f"bgm: {shown(str(error))}", err=True)
        sys.exit(1)

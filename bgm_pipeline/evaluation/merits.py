"""From the report on separation to the table that ``auto`` chooses by."""

import numpy as np

from bgm_pipeline.choice import Merit
from bgm_pipeline.evaluation import costs
from bgm_pipeline.evaluation.comparison import Comparison
from bgm_pipeline.evaluation.mixtures import LEVELS_DB
from bgm_pipeline.models import cost, registry
from bgm_pipeline.settings import Settings


def merits_of(comparison: Comparison, settings: Settings, report: str) -> dict[str, Merit]:
    """What was measured of those networks of a comparison that ship; their cost is measured on the CPU.

    Args:
        report: where the figures stand in full.
    """
    ships, found = registry.shipped("separation"), {}
    on_cpu = settings.model_copy(update={"device": "cpu"})
    for system in comparison.networks:
        if system.model not in ships:
            continue
        loaded = registry.load(system.model)
        cpu_s = costs.seconds(loaded, on_cpu)
        identified = [share for level_db in LEVELS_DB for share in comparison.identified(system, level_db)]
        found[system.model] = Merit(
            weights_sha256=loaded.sha256,
            mask_exponent=settings.separation.mask_exponent,
            mixtures=comparison.tests.count,
            identified=round(float(np.mean(identified)), 4),
            si_sdr_db=round(
                float(np.mean([comparison.mean(system, level_db, "si_sdr").value for level_db in LEVELS_DB])),
                3,
            ),
            gflop=round(cost.gflop(loaded.network), 1),
            cpu_s=round(cpu_s, 2),
            cpu=costs.cpu_name(),
            report=report,
        )
    return found

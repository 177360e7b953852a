"""What a training is validated on, and by what."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from bgm_pipeline.errors import InputError
from bgm_pipeline.folders import make_folder
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.losses import Objective
from bgm_pipeline.training.mixing import MixtureDataset
from bgm_pipeline.training.protocols import TrainingSettings

_SEED = 2


def check_split(corpus: Corpus, folder: Path) -> None:
    """Looks whether there is something to train on and to validate on, and makes the training's folder.

    Raises:
        InputError: no music or speech in the corpus, or no such folder.
    """
    for split in ("train", "valid"):
        if not corpus.select(split, "music") or not corpus.select(split, "speech"):
            raise InputError(
                f"{corpus.folder}: split {split!r} needs both music and speech; give the corpus more sources"
            )
    make_folder(folder)


@torch.no_grad()
def validation_quality(
    module: nn.Module,
    objective: Objective,
    corpus: Corpus,
    settings: TrainingSettings,
    device: torch.device,
) -> float:
    """Mean quality over the validation crops, twice as long as those trained on.

    Crops without music do not count for separation.
    """
    length, crops = 2 * settings.crop_samples, settings.validation_crops
    data = MixtureDataset(corpus, "valid", length, crops, _SEED, objective.mixing)
    module.eval()
    qualities = [
        objective.quality(module, {name: tensor.to(device) for name, tensor in batch.items()})
        for batch in DataLoader(data, settings.batch_size)
    ]
    return float(torch.cat(qualities).nanmean())

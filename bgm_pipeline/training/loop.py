"""Trains any registered network; a killed training goes on from its last checkpoint."""

import csv
import io
import logging
import math
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset

from bgm_pipeline.errors import BgmError, InputError, ModelError
from bgm_pipeline.folders import alone, writing
from bgm_pipeline.memory import reuse_freed_memory
from bgm_pipeline.models import registry
from bgm_pipeline.timebase import samples_to_s
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.training.losses import objective_for
from bgm_pipeline.training.mixing import MUSIC_TO_SPEECH_DB
from bgm_pipeline.training.optimiser import optimiser_for
from bgm_pipeline.training.protocols import TrainingSettings
from bgm_pipeline.training.validation import check_split, validation_quality

log = logging.getLogger(__name__)

_STEPS_AN_EPOCH = 10**9  # more than any training takes
_NO_TEACHER = "none"
_ONCE_FIXED = {
    "music_to_speech_db": list(MUSIC_TO_SPEECH_DB),
    "teacher": _NO_TEACHER,
    "optimiser": "adamw",
}
"""What earlier versions had no choice of."""
_CURE = "make room; the same command goes on from the last checkpoint"


@dataclass(slots=True)
class Progress:
    """How far a training is; handed to the caller after every step."""

    step: int = 0
    seconds: float = 0.0
    audio_s: float = 0.0
    done: float = 0.0
    """Share of the training that is behind, 0..1."""
    loss: float = math.nan
    learning_rate: float = 0.0
    quality: float = math.nan
    """Of the last validation: gain in SI-SDR over the mixture, dB, or share of right scores."""

    earlier: dict[str, float] = field(default_factory=dict)
    """What the weights that this training started from had behind them: `steps`, `hours`, `audio_hours`."""

    def metadata(self) -> dict[str, str]:
        """What weights that were trained so far are saved with: all of it, that of earlier trainings, too."""

        def in_all(name: str, now: float) -> float:
            return now + self.earlier.get(name, 0)

        return {
            "steps": f"{in_all('steps', self.step):.0f}",
            "hours": f"{in_all('hours', self.seconds / 3600):.3f}",
            "audio_hours": f"{in_all('audio_hours', self.audio_s / 3600):.3f}",
            "validation": f"{self.quality:.3f}",
        }


def train(
    network: registry.Network,
    corpus: Corpus,
    folder: Path,
    settings: TrainingSettings,
    device: torch.device,
    on_step: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    start_from: str = "",
) -> Path:
    """Trains, or goes on with the training that `folder` holds.

    Args:
        folder: gets ``checkpoint.pt`` (all that resuming needs), ``NAME.safetensors`` (averaged weights,
            the newest) and ``losses.csv`` (step, seconds, audio, loss, rate, quality).
        should_stop: asked after every step; a training that stops writes its checkpoint first.
        start_from: weights that a new training begins with: a file, or a name for those that ship; empty
            for random ones. A training that goes on has its own, and must have begun with these.

    Returns:
        Path of the weights.

    Raises:
        InputError: neither steps nor hours given, no music or speech in the corpus, no such folder, another
            training in it, a recording that cannot be read, or the end of the training cannot be written.
        ModelError: the checkpoint belongs to another network, to other mixtures or to other weights to start
            from, or is broken, these weights do not fit, the teacher cannot teach this network, or the loss
            or its gradient is not a number.
    """
    if not settings.steps and not settings.hours:
        raise InputError("say how long to train: a number of steps or of hours")
    if not network.needs_weights or network.trained_by != "gradient":
        raise ModelError(f"{network.name} has nothing to train step by step")
    check_split(corpus, folder)
    with alone(folder / "training.lock", "another training is at work there; end it, or name another folder"):
        run = _Training(network, corpus, folder, settings, device)
        if run.checkpoint_path.exists():
            run.resume(start_from)
        elif start_from:
            run.start_from(start_from)
        run.go(on_step, should_stop)
        return run.weights_path


class _Training:
    """State of one training: what the checkpoint holds, and how it is used."""

    def __init__(
        self,
        network: registry.Network,
        corpus: Corpus,
        folder: Path,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        torch.manual_seed(settings.seed)
        if device.type == "cpu":
            reuse_freed_memory()
            # oneDNN keeps 1,024 compiled layers by itself: Muon's products of many shapes would push a dense
            # network's out in every step.
            os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
        self.network, self.corpus, self.folder, self.settings, self.device = (
            network,
            corpus,
            folder,
            settings,
            device,
        )
        # Convolutions of few maps are faster with channels last: on a CPU by half.
        self.module = network.build().to(device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.module, avg_fn=self.averaged, use_buffers=True)
        self.teacher = registry.load(settings.teacher) if settings.teacher else None
        objective = objective_for(network, settings.loss, self.teacher).to(device)
        self.objective = objective.to(memory_format=torch.channels_last)  # its teacher has convolutions, too
        self.optimiser = optimiser_for(
            settings.optimiser, self.module.parameters(), settings.learning_rate, settings.weight_decay
        )
        self.amp_dtype = torch.bfloat16 if settings.bfloat16 else torch.float16
        is_scaled = device.type == "cuda" and not settings.bfloat16
        self.amp = torch.amp.GradScaler(device.type, enabled=is_scaled)
        self.progress = Progress()
        self.started_from: str | None = ""
        """sha256 of the weights it began with, empty for none; None: an earlier version did not keep it."""
        self.weights_path = folder / f"{network.name}.safetensors"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.log_path = folder / "losses.csv"

    def averaged(self, average: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        """Moving average that forgets the random start: its decay rises from 0.1 to ``ema_decay``."""
        decay = min(self.settings.ema_decay, (1 + int(count)) / (10 + int(count)))
        return average + (new - average) * (1 - decay)

    def go(self, on_step: Callable[[Progress], None], should_stop: Callable[[], bool]) -> None:
        """Steps until the training is over or stopped; checkpoints and validates on the way."""
        since = saved = validated = time.monotonic()
        losses: list[float] = []
        for batch in self.heard():
            if self.progress.done >= 1 or should_stop():
                break
            losses.append(self.step({name: tensor.to(self.device) for name, tensor in batch.items()}))
            self.progress.loss = losses[-1]
            now = time.monotonic()
            self.count(now - since)
            since = now
            on_step(self.progress)
            if now - validated > self.settings.validate_every_s:
                self.progress.quality = self.validate()
                validated = time.monotonic()
            if now - saved > self.settings.checkpoint_every_s:
                try:
                    self.save()
                    self.log(losses)
                    losses = []
                except InputError as error:
                    log.warning("%s (it has not ended, and will try again)", error)
                saved = time.monotonic()
        self.save()  # whoever stops a training may not wait for its last validation
        self.progress.quality = self.validate()
        self.save()
        self.log(losses)

    def count(self, seconds: float) -> None:
        """Adds one step of so many seconds to the progress."""
        p, s = self.progress, self.settings
        p.step += 1
        p.seconds += seconds
        p.audio_s += s.batch_size * samples_to_s(s.crop_samples)
        p.done = self.share()

    def share(self) -> float:
        """Share of the training that is behind, 0..1; less again when a longer one is asked for."""
        p, s = self.progress, self.settings
        return min(1.0, p.step / s.steps if s.steps else p.seconds / (s.hours * 3600))

    def batches(self) -> DataLoader[Any]:
        """Mixtures from the next unseen one on: a resumed training sees what it would have seen."""
        s = self.settings
        count = _STEPS_AN_EPOCH * s.batch_size
        data = s.mixtures(self.corpus, count, self.objective.mixing)
        unseen = Subset(data, range(self.progress.step * s.batch_size, count))
        return DataLoader(
            unseen,
            s.batch_size,
            num_workers=s.loader_processes,
            prefetch_factor=8 if s.loader_processes else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_stopping_to_the_parent,
        )

    def heard(self) -> Iterator[dict[str, torch.Tensor]]:
        """`batches`; an error of a loader in its own words, without the loader's traceback."""
        try:
            yield from self.batches()
        except BgmError as error:
            last = str(error).strip().splitlines()[-1]
            raise type(error)(last.partition(f"{type(error).__name__}: ")[2] or last) from error

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One update of the weights; returns the loss."""
        s, p = self.settings, self.progress
        warm = min(1.0, p.done / s.warmup) if s.warmup else 1.0
        p.learning_rate = s.learning_rate * max(warm, 0.01) * (0.505 + 0.495 * math.cos(math.pi * p.done))
        for group in self.optimiser.param_groups:
            group["lr"] = p.learning_rate
        self.module.train()
        is_mixed = s.bfloat16 or self.amp.is_enabled()
        with torch.autocast(self.device.type, self.amp_dtype, enabled=is_mixed):
            loss: torch.Tensor = self.objective.loss(self.module, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self.diverged("loss")
        self.optimiser.zero_grad(set_to_none=True)
        self.amp.scale(loss).backward()
        self.amp.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), s.clip_norm)
        if not self.amp.is_enabled() and not math.isfinite(float(norm)):  # a scaler leaves such steps out
            raise self.diverged("gradient")
        self.amp.step(self.optimiser)
        self.amp.update()
        self.average.update_parameters(self.module)
        return value

    def diverged(self, what: str) -> ModelError:
        """The error that ends a training before its weights are spoilt."""
        return ModelError(
            f"the {what} of {self.network.name} is no number at step {self.progress.step}; lower the "
            f"learning rate and resume from {self.checkpoint_path}"
        )

    def validate(self) -> float:
        """Quality of the averaged weights, see `validation_quality`."""
        return validation_quality(self.average, self.objective, self.corpus, self.settings, self.device)

    def fixed(self) -> dict[str, Any]:
        """The settings that a training must go on with: which mixtures a step sees, what it is to make of
        them, and the optimiser."""
        s = self.settings
        return {
            "batch_size": s.batch_size,
            "crop_frames": s.crop_frames,
            "seed": s.seed,
            "music_to_speech_db": list(s.music_to_speech_db),
            "loss": s.loss,
            "teacher": self.teacher.sha256[:12] if self.teacher else _NO_TEACHER,
            "optimiser": s.optimiser,
        }

    def save(self) -> None:
        """Checkpoint and weights, each replaced whole.

        Raises:
            InputError: they cannot be written.
        """
        partial = self.checkpoint_path.with_suffix(".partial")
        state = {
            "network": self.network.name,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "amp": self.amp.state_dict(),
            "progress": asdict(self.progress),
            "fixed": self.fixed(),
            "started_from": self.started_from,
            "corpus": self.corpus.identity(),
        }
        checkpoint = io.BytesIO()  # torch does not tell what kept it from writing to a file
        torch.save(state, checkpoint)
        with writing(self.checkpoint_path, _CURE):
            with partial.open("wb") as file:
                file.write(checkpoint.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # else a power cut can leave a new name and old content
            partial.replace(self.checkpoint_path)
        with writing(self.weights_path, _CURE):
            registry.save(self.average.module, self.network, self.weights_path, self.progress.metadata())

    def log(self, losses: list[float]) -> None:
        """Adds a row to the log, with the mean of the losses since the last one.

        Raises:
            InputError: it cannot be written.
        """
        p = self.progress
        new = not self.log_path.exists()
        with writing(self.log_path, _CURE), self.log_path.open("a", newline="") as file:
            log = csv.writer(file)
            if new:
                log.writerow(["step", "seconds", "audio_s", "loss", "learning_rate", "quality"])
            mean = sum(losses) / len(losses) if losses else math.nan
            log.writerow(
                [p.step, round(p.seconds), round(p.audio_s), f"{mean:.5f}", f"{p.learning_rate:.2e}"]
                + [f"{p.quality:.3f}"]
            )

    def start_from(self, name_or_path: str) -> None:
        """Takes the weights of an earlier training, and how long that was."""
        loaded = registry.load(name_or_path, self.network.task)
        if loaded.network.name != self.network.name:
            raise ModelError(
                f"{name_or_path} holds weights of {loaded.network.name}, not of {self.network.name}"
            )
        for module in (self.module, self.average.module):
            module.load_state_dict(loaded.module.state_dict())
        self.started_from = loaded.sha256
        told = loaded.metadata
        self.progress.earlier = {
            name: float(told[name]) for name in ("steps", "hours", "audio_hours") if name in told
        }

    def resume(self, start_from: str) -> None:
        """Takes up what the folder's checkpoint holds, if it began with these weights, where some are named.

        Raises:
            ModelError: it is broken, or belongs to another training.
        """
        try:
            self.take_up(torch.load(self.checkpoint_path, map_location=self.device, weights_only=True))
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise ModelError(
                f"{self.checkpoint_path} is broken, or of another version of the program; delete it, and "
                f"begin with the weights beside it: --start-from {self.weights_path}"
            ) from error
        # Its own weights, which it may have begun with after its checkpoint broke, have changed since.
        is_own = Path(start_from).resolve() == self.weights_path.resolve()
        if not start_from or is_own or self.started_from is None:
            return
        if self.started_from != registry.load(start_from, self.network.task).sha256:
            raise ModelError(
                f"{self.checkpoint_path} holds a training that did not begin with {start_from}; leave "
                "--start-from out to go on with that training, or give another folder"
            )

    def take_up(self, held: dict[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            ModelError: it belongs to another training.
        """
        if held["network"] != self.network.name:
            raise ModelError(
                f"{self.checkpoint_path} holds a training of {held['network']}, not of {self.network.name}; "
                "give another folder"
            )
        if held.get("corpus", now := self.corpus.identity()) != now:
            log.warning(
                "%s: the corpus is another than before, so other mixtures come from here on than would have; "
                "see that --corpus is right, unless recordings were added",
                self.checkpoint_path,
            )
        now_fixed = self.fixed()
        # A checkpoint of an earlier version tells less.
        held_fixed = {**now_fixed, **_ONCE_FIXED, **held.get("fixed", {})}
        if held_fixed != now_fixed:
            then, now = (
                ", ".join(
                    f"{name} {values[name]}" for name in now_fixed if held_fixed[name] != now_fixed[name]
                )
                for values in (held_fixed, now_fixed)
            )
            raise ModelError(
                f"{self.checkpoint_path} holds a training with {then}, not with {now}; "
                "give the same again, or another folder"
            )
        self.module.load_state_dict(held["module"])
        self.average.load_state_dict(held["average"])
        self.optimiser.load_state_dict(held["optimiser"])
        if held["amp"]:  # empty where no scaler was at work: on a CPU, and in bfloat16
            self.amp.load_state_dict(held["amp"])
        self.progress = Progress(**held["progress"])
        self.started_from = held.get("started_from")
        self.progress.done = self.share()


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Ctrl-C and systemd signal the whole process group; a loader that dies first would end the training
    before its checkpoint is written. Loaders end by themselves when their parent is gone; a second signal
    ends one that hangs."""

    def forgive_once(received: int, _: object) -> None:
        signal.signal(received, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forgive_once)

"""What changes the weights after every step of a training."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

OptimiserName = Literal["muon", "adamw"]
"""`MuonAndAdamW`, or AdamW (Loshchilov & Hutter 2019) for all weights."""


class MuonAndAdamW(Optimizer):
    """Muon for weights that are matrices, AdamW for all others: gains of norms, offsets, kernels to one map.

    Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") makes a matrix's step
    equally large in all directions, so that those are learnt, too, in which gradients are small. All kernels
    of a convolution are one matrix, with a row a map. Its steps are scaled to be as large as AdamW's (Liu et
    al. 2025, "Muon is scalable for LLM training"), so that one rate serves both.

    Args:
        parameters: of the network; those of four dimensions with channels last in memory.
        learning_rate: of all of them, to begin with.
        weight_decay: of all of them, decoupled from the gradient.

    Raises:
        RuntimeError: a weight of four dimensions does not have its channels last.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        given = list(parameters)
        super().__init__(given, {"lr": learning_rate})
        self.matrices = [weight for weight in given if weight.ndim > 1 and 1 < len(weight) < weight.numel()]
        known = set(self.matrices)
        # Views: what Muon does to them is done to the weights.
        self.flat = [
            nn.Parameter(_channels_last(weight.detach()).view(len(weight), -1)) for weight in self.matrices
        ]
        self.muon: Optimizer = Muon(
            self.flat, learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        others = [weight for weight in given if weight not in known]
        self.adamw: Optimizer = AdamW(others, learning_rate, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Changes the weights by their gradients, at the rate of `param_groups`."""
        for weight, flat in zip(self.matrices, self.flat, strict=True):
            flat.grad = None if weight.grad is None else _channels_last(weight.grad).flatten(1)
        for optimiser in (self.muon, self.adamw):
            for group in optimiser.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a state.

        Raises:
            KeyError: it is another optimiser's.
        """
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])


def optimiser_for(
    name: OptimiserName, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """The optimiser of that name."""
    kind = AdamW if name == "adamw" else MuonAndAdamW
    return kind(parameters, learning_rate, weight_decay=weight_decay)


def _channels_last(weight: Tensor) -> Tensor:
    """A weight of four dimensions as it lies in memory; Muon does not mind the order of columns."""
    return weight.movedim(1, -1) if weight.ndim == 4 else weight

"""What a network costs: parameters, and operations for a segment of 12 s."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bgm_pipeline.models.registry import Network
from bgm_pipeline.timebase import SEGMENT_SAMPLES
from bgm_pipeline.transforms import HOP_LENGTH, N_FFT


def parameters(module: nn.Module) -> int:
    """How many numbers were learnt; a batch norm's running statistics are none of them."""
    return sum(parameter.numel() for parameter in module.parameters())


def gflop(network: Network) -> float:
    """Billions of operations a segment, two for a multiply and an add; without transforms and additions."""
    return gflop_of(network.build(), _segment(network))


def gflop_of(module: nn.Module, example: Tensor) -> float:
    """Billions of operations that any module takes for an input.

    Nothing is computed: torch counts on its meta device, but for recurrent layers, which it would take apart
    frame by frame. These cost two operations a frame for each weight.

    Args:
        module: it is of no use afterwards.
        example: an input of that shape and type.
    """
    module = module.eval().to("meta")
    recurrent_flop = 0

    def stand_in(layer: nn.RNNBase) -> None:
        cells = layer.hidden_size * (2 if layer.bidirectional else 1)
        weights = sum(w.numel() for name, w in layer.named_parameters() if name.startswith("weight"))

        def forward(x: Tensor, state: object = None) -> tuple[Tensor, None]:
            nonlocal recurrent_flop
            recurrent_flop += 2 * weights * x.shape[:-1].numel()
            return x.new_empty(*x.shape[:-1], cells), None

        layer.forward = forward

    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            stand_in(layer)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(example.to("meta"))
    return (counter.get_total_flops() + recurrent_flop) / 1e9


def _segment(network: Network) -> Tensor:
    """The shape of what the network gets to see of 12 s."""
    if network.task == "detection" or network.domain == "waveform":
        return torch.empty(1, 1, SEGMENT_SAMPLES, device="meta")
    return torch.empty(1, 1, N_FFT // 2 + 1, SEGMENT_SAMPLES // HOP_LENGTH + 1, device="meta")

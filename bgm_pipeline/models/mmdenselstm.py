"""MMDenseLSTM of Takahashi, Goswami & Mitsufuji 2018: MMDenseNet with an LSTM behind some dense blocks.

From the paper: the LSTM block (one map, bidirectional LSTM along time, linear layer back to the bins) stands
behind the dense block and its map is concatenated (their arrangement "Sa"); few, at coarse scales; up to 128
cells where a band matters, fewer in the high band. Ours: the bands and dense blocks are those of Table 1 of
Heo et al. 2019, so that it compares with the others; the LSTMs stand at dense block 4 (the coarsest) of every
band and at dense block 5 of the low and the full one, in front of the compression.
"""

from bgm_pipeline.models.mmdensenet import MMDenseNet

LSTM_CELLS = {"low": {4: 128, 5: 128}, "high": {4: 32}, "full": {4: 128, 5: 128}}
"""Cells of both directions, by band and dense block."""


class MMDenseLstm(MMDenseNet):
    """`MMDenseNet` with LSTM blocks: magnitudes ``(batch, 1, 513, frame)`` to a mask of that shape."""

    def __init__(self) -> None:
        super().__init__(lstm=LSTM_CELLS)

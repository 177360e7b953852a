"""What comes before the network and what comes after it, each in a thread of its own, beside the network.

Both hold a bounded number of items, so that memory is flat however unequal the sides are. An error of either
side is raised where the items are asked for or given. Leaving the ``with`` statement, for whatever reason,
ends the thread before anything goes on.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _End:
    """Follows the last item; with the error, where that is why there are no more."""

    error: BaseException | None = None


@contextmanager
def read_ahead(
    items: Iterable[Item], depth: int, interrupt: Callable[[], None] = lambda: None
) -> Iterator[Iterator[Item]]:
    """The same items, of which up to `depth` are made before they are asked for.

    Args:
        items: made in another thread, one after the other; what making them raises is raised by the iterator.
        interrupt: called, from this thread, where not all items were taken; may end a wait for the next one.
    """
    made: queue.Queue[Item | _End] = queue.Queue(depth)
    is_left = threading.Event()

    def make() -> None:
        end = _End()
        try:
            for item in items:
                made.put(item)
                if is_left.is_set():
                    return
        except BaseException as error:
            end = _End(error)
        made.put(end)

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        yield _taken(made)
    finally:
        is_left.set()
        if thread.is_alive():
            interrupt()
        while thread.is_alive():
            _empty(made)  # a full queue would hold it up
            thread.join(_JOIN_S)


@contextmanager
def write_behind(write: Callable[[Item], None], depth: int) -> Iterator[Callable[[Item], None]]:
    """A function that has `write` called for its argument, later and in order; up to `depth` wait.

    It raises what an earlier `write` raised. Leaving the ``with`` statement waits for all that was given and
    raises such an error too; after another error what still waits is not written.
    """
    given: queue.Queue[Item | _End] = queue.Queue(depth)
    errors: list[BaseException] = []

    def work() -> None:
        for item in _taken(given):
            if errors:
                continue  # takes what was given, so that nobody waits for room
            try:
                write(item)
            except BaseException as error:
                errors.append(error)

    def give(item: Item) -> None:
        if errors:
            raise errors[0]
        given.put(item)

    thread = threading.Thread(target=work, name="write behind", daemon=True)
    thread.start()
    try:
        yield give
    except BaseException:
        _empty(given)
        raise
    finally:
        given.put(_End())
        thread.join()
    if errors:
        raise errors[0]


_JOIN_S = 0.05


def _taken(items: "queue.Queue[Item | _End]") -> Iterator[Item]:
    while not isinstance(item := items.get(), _End):
        yield item
    if item.error is not None:
        raise item.error


def _empty(items: "queue.Queue[Item | _End]") -> None:
    while True:
        try:
            items.get_nowait()
        except queue.Empty:
            return

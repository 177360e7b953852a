"""What goes on beside the network: order, bounds, errors of either side, and that nothing is left running."""

import threading
import time
from collections.abc import Iterator

import pytest

from bgm_pipeline.overlap import read_ahead, write_behind


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_items_come_in_order_and_no_more_than_asked_for_are_made_ahead() -> None:
    made: list[int] = []
    is_made = threading.Semaphore(0)

    def count() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            is_made.release()
            yield number

    with read_ahead(count(), 3) as items:
        for _ in range(4):
            assert is_made.acquire(timeout=10)
        assert next(items) == 0
        assert len(made) <= 5
        assert list(items) == list(range(1, 20))


def test_an_error_of_what_is_read_is_raised_where_its_item_is_missed() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise OSError("programme.ts: cannot be read")

    got = []
    with pytest.raises(OSError, match=r"programme\.ts"), read_ahead(fail(), 3) as items:
        got.extend(items)
        pytest.fail("the end was taken for the end of the file")
    assert got == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaving_early_ends_a_reader_that_waits_for_room_or_for_its_next_item(
    error: type[BaseException],
) -> None:
    goes_on, waits = threading.Event(), threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        waits.set()
        goes_on.wait(60)

    with pytest.raises(error), read_ahead(stuck(), 2, goes_on.set):
        assert waits.wait(10)
        raise error
    with pytest.raises(error), read_ahead(iter(range(1000)), 2) as items:
        next(items)
        raise error


def test_all_that_was_given_is_written_in_order_before_the_end() -> None:
    written: list[int] = []
    with write_behind(written.append, 2) as give:
        for number in range(20):
            give(number)
    assert written == list(range(20))


def test_an_error_of_the_writer_is_raised_to_who_gives_or_at_the_end() -> None:
    def full(number: int) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"), write_behind(full, 2) as give:
        give(1)
    given = 0
    with pytest.raises(OSError, match="No space left"), write_behind(full, 2) as give:
        for given in range(1000):
            give(given)
    assert given < 999


def test_after_another_error_what_waits_is_not_written() -> None:
    is_written = threading.Event()
    written: list[int] = []

    def write(number: int) -> None:
        written.append(number)
        is_written.set()
        time.sleep(0.2)

    def give_up() -> None:
        with write_behind(write, 4) as give:
            for number in range(3):
                give(number)
            assert is_written.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert written == [0]

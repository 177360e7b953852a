"""A file becomes an episode, or is known as one: by its bytes, whatever it is called."""

from collections.abc import Iterable, Iterator
from datetime import tzinfo
from pathlib import Path

from bgm_pipeline.errors import InputError, MediaError
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import sha256_of
from bgm_pipeline.naming import Told, compile_patterns, read_name
from bgm_pipeline.settings import InboxSettings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.rows import kept_path, values_told
from bgm_pipeline.types import Episode


def register(
    episode: Episode,
    source_sha256: str,
    size_bytes: int,
    store: Store,
    settings: InboxSettings,
    *,
    is_news: bool = True,
    is_of_inbox: bool = True,
    meant_sha256: str | None = None,
) -> tuple[int, tuple[str, ...]]:
    """The number of an episode, and what somebody may have to be told: that it was known as another airing.

    Args:
        is_news: as of `Store.register_episode`.
        is_of_inbox: of two files with the same bytes the one seen first counts, as long as it is there.
        meant_sha256: as of `refuse_another`.

    Raises:
        InputError: another recording than was meant lies there; it is not registered.
        StoreError: the database cannot be used.
    """
    refuse_another(episode, source_sha256, meant_sha256, settings)
    before = store.episode_of(source_sha256)
    episode_id = store.register_episode(
        episode,
        source_sha256,
        size_bytes,
        is_news=is_news,
        is_copy=is_of_inbox and before is not None and _is_copy(episode.path, source_sha256, before.path),
    )
    after = store.episode_of(source_sha256)
    return episode_id, tuple(_moved(before, after, settings.zone)) if before and after else ()


def refuse_another(
    episode: Episode, source_sha256: str, meant_sha256: str | None, settings: InboxSettings
) -> None:
    """Sees to it that no recording gets what was told of another one, in whose place it lies by now.

    Other bytes than were meant are that broadcast all the same, mended, where the file's own name tells all
    that was told; not where a table told it, or somebody, of a name that is used again and again.

    Args:
        source_sha256, meant_sha256: of the bytes that lie there, and that were told of; None where nobody
            knows these.

    Raises:
        InputError: another recording lies there.
    """
    if meant_sha256 in (None, source_sha256):
        return
    name = read_name(
        str(episode.path.with_suffix("")), compile_patterns(settings.patterns), settings.name_zone
    )
    if _is_contradicted(episode, name):
        raise another_lies_there(episode.path)


def another_lies_there(path: Path) -> InputError:
    """The refusal of bytes that were not meant."""
    cure = "put the former one back; this one is for the next night, or for bgm process"
    return InputError(f"{shown(path)}: another recording lies there now; {cure}")


def _is_copy(path: Path, source_sha256: str, known: Path) -> bool:
    """Whether another file with these bytes was seen first, and is still there."""
    if str(known) == kept_path(path):
        return False
    try:
        is_another = known.resolve() != path.resolve() and known.stat().st_size == path.stat().st_size
        # A recorder may have put another programme in its place meanwhile.
        return is_another and sha256_of(known) == source_sha256
    except (OSError, MediaError):
        return False


def _moved(before: Episode, after: Episode, zone: tzinfo) -> Iterator[str]:
    """That an airing is another one now; nothing where no more than gaps were filled."""
    if _is_contradicted(before, after):
        yield f"known as {airing(before, zone)} before, now as {airing(after, zone)}"


def _is_contradicted(known: Episode, told: Episode | Told) -> bool:
    """Whether something else is told of channel, title or air time than is known; not where nothing was."""
    was, now = values_told(known), values_told(Episode(Path(), told.channel, told.title, told.air_start))
    return any(now.get(name) != value for name, value in was.items())


def places_taken(episode_ids: Iterable[int]) -> list[str]:
    """That these episodes are not reported any more, for people to read."""
    return [
        f"took the place of episode {one}, which is reported no more; bgm store drop {one} removes that"
        for one in episode_ids
    ]


def airing(episode: Episode, zone: tzinfo) -> str:
    """Channel, air time and title of an episode, for people to read; the time with its offset, without which
    those of the hour that comes twice look alike."""
    on_air = episode.air_start and episode.air_start.astimezone(zone).isoformat(" ", "seconds")
    told = (episode.channel or "no channel", on_air or "no air time", episode.title or "no title")
    return shown(", ".join(told))

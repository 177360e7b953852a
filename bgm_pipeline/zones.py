"""This machine's time zone."""

from datetime import tzinfo

from tzlocal import get_localzone

from bgm_pipeline.errors import InputError


def local_zone() -> tzinfo:
    """The time zone that this machine is set to.

    Raises:
        InputError: it cannot be told, as where TZ holds rules instead of a name (CET-1CEST,M3.5.0,M10.5.0/3).
    """
    try:
        return get_localzone()
    except (OSError, ValueError, KeyError):
        raise InputError(
            "this machine's time zone has no name that is known; set BGM_INBOX__TIME_ZONE, or TZ=Europe/Paris"
        ) from None

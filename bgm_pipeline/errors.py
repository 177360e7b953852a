"""Errors that a user can act on; each message names the file, what is wrong and what to do."""


class BgmError(Exception):
    """Base of every error that is the user's to mend; shown as one line, never as a traceback."""


class InputError(BgmError):
    """A path, an option or a table given by the user cannot be used."""


class MediaError(BgmError):
    """A media file cannot be read, or holds no audio that could be used."""


class MediaInterruptedError(MediaError):
    """What read a media file was killed, or did not answer, or its disk failed: that says nothing of the
    file."""


class ModelError(BgmError):
    """A network's name, weights or settings do not fit together."""


class StoreError(BgmError):
    """The database or the stem store cannot be used, or disagrees with the other."""

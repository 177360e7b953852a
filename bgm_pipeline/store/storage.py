"""Where files of the stem store lie: a folder, or a bucket of an object store that speaks S3.

A key is a file's path below the root, with forward slashes; a folder is what the keys of its files begin
with. Both kinds of storage give the same promise: a file is there whole or not at all. In a folder that is
a temporary name, fsync and a move, for which fsspec has no words; in a bucket it is a single PUT.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from bgm_pipeline.errors import StoreError

TEMPORARY_SUFFIX = ".tmp"

_BUCKET_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^?#]*))?")
_CREDENTIALS_CURE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
_TIMEOUT_S = 10


class Entry(NamedTuple):
    """What lies in a folder."""

    name: str
    is_folder: bool


class Storage(Protocol):
    """Files by their keys. Whatever fails is an OSError whose `strerror` says what to do."""

    def shown(self, key: str) -> str:
        """The file or folder in a message's words."""

    def write(self, key: str, content: bytes) -> None:
        """Make a file, or replace it: it is there whole or not at all, whatever happens."""

    def read(self, key: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    def entries(self, folder: str) -> list[Entry]:
        """What lies in a folder, by name; nothing where there is no such folder."""

    def remove(self, key: str) -> None:
        """Remove a file, or a folder with all that is in it; what is not there is no fault."""

    def settle(self, folder: str) -> None:
        """Make the names of the files in a folder as lasting as their content."""


def open_storage(place: str) -> Storage:
    """The folder or the bucket of a setting.

    Raises:
        StoreError: it is a URL of another kind, or has a password in it, which no message repeats.
    """
    if "://" not in place:
        return FolderStorage(Path(place).absolute())
    _, _, rest = place.partition("://")
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise StoreError(f"BGM_STEM_STORE: a URL must not hold credentials or options; {_CREDENTIALS_CURE}")
    found = _BUCKET_URL.fullmatch(place)
    if found is None:
        raise StoreError("BGM_STEM_STORE: neither a folder nor s3://bucket/prefix; write one of these")
    return BucketStorage(found["bucket"], (found["prefix"] or "").strip("/"))


class FolderStorage:
    """Files below a folder, which stay after a power cut."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def shown(self, key: str) -> str:
        return str(self._path(key))

    def write(self, key: str, content: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(TEMPORARY_SUFFIX)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def entries(self, folder: str) -> list[Entry]:
        try:
            found = sorted(os.scandir(self._path(folder)), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        return [Entry(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]

    def remove(self, key: str) -> None:
        path = self._path(key)
        with suppress(FileNotFoundError, NotADirectoryError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def settle(self, folder: str) -> None:
        path = self._path(folder)
        while path != self.root.parent:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            path = path.parent

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key.split("/")) if key else self.root


class BucketStorage:
    """Objects of a bucket, through fsspec. Endpoint, region and credentials come from the environment, in
    the variables that all programs for S3 read (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` ...)."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import fsspec  # noqa: PLC0415 - with botocore slow to import, and not needed for a folder

        # Another process may have written what a remembered listing does not know.
        timeouts = {"connect_timeout": _TIMEOUT_S, "read_timeout": 6 * _TIMEOUT_S}
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        self._files = fsspec.filesystem("s3", config_kwargs=timeouts, **options)
        self._bucket = bucket
        self._root = PurePosixPath(bucket, prefix)

    def shown(self, key: str) -> str:
        return f"s3://{self._path(key)}"

    def write(self, key: str, content: bytes) -> None:
        with self._explained():
            self._files.pipe_file(self._path(key), content)

    def read(self, key: str) -> bytes:
        with self._explained():
            return bytes(self._files.cat_file(self._path(key)))

    def entries(self, folder: str) -> list[Entry]:
        path = self._path(folder)
        try:
            with self._explained():
                found = self._files.ls(f"{path}/", detail=True)
        except FileNotFoundError:
            return []
        entries = (
            Entry(one["name"].removeprefix(path).strip("/"), one["type"] == "directory") for one in found
        )
        # An object that bears the folder's own name is what some programs make of an empty folder.
        return sorted(entry for entry in entries if entry.name)

    def remove(self, key: str) -> None:
        path, kept = self._path(key), set[str]()
        with suppress(FileNotFoundError), self._explained():
            if found := self._files.find(path):
                self._files.rm(found)
                # s3fs says nothing of the objects that the store refuses to delete.
                kept = {*found} & {*self._files.find(path)}
        if kept:
            cure = "the credentials need DeleteObject, and no lock may hold it"
            raise PermissionError(errno.EACCES, f"the object store did not delete it; {cure}")

    def settle(self, folder: str) -> None:
        """Nothing is left to do: what was put into a bucket stays."""

    def _path(self, key: str) -> str:
        return str(self._root / key)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what botocore says of missing buckets, credentials and servers into an OSError's one line."""
        from botocore.exceptions import (  # noqa: PLC0415
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except (OSError, ValueError, BotoCoreError, ClientError) as error:  # ValueError: no endpoint's URL
            cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
            answer = cause.response.get("Error", {}) if isinstance(cause, ClientError) else {}
            code = answer.get("Code", "")
            if code == "NoSuchBucket":
                why = f"there is no bucket {self._bucket}; make it, or let BGM_STEM_STORE name another"
            elif isinstance(error, FileNotFoundError):
                raise
            elif isinstance(error, NoCredentialsError | PartialCredentialsError):
                why = f"no credentials for the object store; {_CREDENTIALS_CURE}"
            elif isinstance(error, PermissionError) or code in _REFUSED:
                why = f"the object store refuses the credentials ({code or error}); {_CREDENTIALS_CURE}"
            elif isinstance(error, ConnectionError | HTTPClientError | OSError) and not code:
                why = f"the object store cannot be reached ({error}); see that it runs, and AWS_ENDPOINT_URL"
            else:
                why = f"the object store says: {answer.get('Message') or error}"
            raise OSError(getattr(error, "errno", None) or 5, " ".join(why.split())) from error


_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403", "401"}

"""Database URLs, connections, and what to say when the database does not answer."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from bgm_pipeline.errors import StoreError

log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

BUSY_TIMEOUT_S = 60
"""How long a writer waits for another one of the same SQLite file."""

PATIENCE_S = 60.0
"""How long a server that was there and is gone is waited for: it may only be restarting."""

_CONNECT_TIMEOUT_S = 10
_SILENCE_TIMEOUT_S = 60
"""A server that answers no packet for so long is gone: a cable does not say that it was pulled."""
_PASSING = {"40001", "40P01", "53300", "57P01", "57P02", "57P03"}
"""SQLSTATEs of what passes: a deadlock, too many connections, a server that stops or starts."""

_CACHE_KIB = 65_536
"""Pages that a connection keeps at most: all runs of a year fit, which SQLite's own 2 MB do not hold."""

_SQLITE_CURE = "see that the file is bgm's, that its folder can be written to and that the disk is not full"
_POSTGRESQL_CURE = "see that the server runs and that BGM_DATABASE_URL has the right host, user and name"
_EXPECTED = "write sqlite:////folder/file.sqlite or postgresql://user:password@host:5432/name"


def parse_url(database_url: str) -> URL:
    """A database URL with the driver that is used here; `postgres://` is taken for PostgreSQL.

    Raises:
        StoreError: it is no such URL, or of another kind of database. No message repeats the URL,
            since it may hold a password.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise StoreError(f"BGM_DATABASE_URL cannot be read as a database URL; {_EXPECTED}") from None
    backend = url.drivername.partition("+")[0]
    if backend in {"postgres", "postgresql"}:
        if "@" in f"{url.host}{url.database}":
            raise StoreError("BGM_DATABASE_URL: write the characters @ / : in the password as %40 %2F %3A")
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite+pysqlite")
    raise StoreError(f"BGM_DATABASE_URL must name an SQLite file or a PostgreSQL database; {_EXPECTED}")


def describe(url: URL) -> str:
    """The database in a message's words, without user, password or options."""
    if is_sqlite(url):
        return f"database {url.database}"
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL database {url.database or ''} at {url.host or 'the local socket'}{port}"


def is_sqlite(url: URL) -> bool:
    """Whether the database is a file of SQLite's."""
    return url.get_backend_name() == "sqlite"


def make_engine(database_url: str) -> Engine:
    """An engine for the URL; an SQLite file's folder is made.

    SQLite is opened so that many processes can write to one file: write-ahead log, a long wait for the
    lock, and the write lock taken when a transaction begins, not in its middle, where waiting is of no
    use. A connection with the execution option ``reading=True`` takes no write lock.
    """
    url = parse_url(database_url)
    if not is_sqlite(url):
        options = {
            "application_name": "bgm",
            # Without it a database made without an encoding (SQL_ASCII) gives bytes for text.
            "client_encoding": "utf8",
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "keepalives_idle": _SILENCE_TIMEOUT_S // 2,
            "keepalives_interval": _SILENCE_TIMEOUT_S // 6,
            "keepalives_count": 3,
            "tcp_user_timeout": _SILENCE_TIMEOUT_S * 1000,
        }
        return create_engine(url, pool_pre_ping=True, connect_args=options)
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{describe(url)}: its folder cannot be made: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # What is committed outlives a power cut: files that a commit makes needless are removed right after it.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.create_function("lower", 1, _lower, deterministic=True)


def _lower(value: str | None) -> str | None:
    """SQLite's own knows no letters but A-Z."""
    return None if value is None else value.lower()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class UnreachableError(StoreError):
    """A PostgreSQL server is not there right now, or broke a transaction off; trying again may help."""


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what a driver says of an unreachable, locked, full or foreign database into one line."""
    try:
        yield
    except DBAPIError as error:
        is_lost = not is_sqlite(url) and _is_lost(error)
        is_of_the_database = isinstance(error, OperationalError) or isinstance(
            error.orig, sqlite3.DatabaseError
        )
        if not is_lost and not is_of_the_database:
            raise
        if isinstance(error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        said = lines[0].replace(str(url.password), "***") if url.password else lines[0]
        cure = _SQLITE_CURE if is_sqlite(url) else _POSTGRESQL_CURE
        kind = UnreachableError if is_lost else StoreError
        raise kind(f"{describe(url)}: {said}; {cure}") from None


def _is_lost(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError)
    return str(state) in _PASSING or str(state).startswith("08")


def outlasting_restarts(work: Callable[Given, Result]) -> Callable[Given, Result]:
    """Makes a function that can be run twice wait for a server that is gone, and run again, for a minute."""

    @wraps(work)
    def patient(*arguments: Given.args, **named: Given.kwargs) -> Result:
        deadline, pause_s = time.monotonic() + PATIENCE_S, 0.25
        while True:
            try:
                return work(*arguments, **named)
            except UnreachableError as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                log.warning("%s; tried again in %g s", error, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)

    return patient

"""SQL functions that SQLite and PostgreSQL spell differently."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from bgm_pipeline.store.orm import UtcDateTime


class ElapsedMs(GenericFunction[int]):
    """Milliseconds from the second moment to the first."""

    type = BigInteger()
    inherit_cache = True
    name = "elapsed_ms"


@compiles(ElapsedMs, "sqlite")
def _elapsed_sqlite(element: ElapsedMs, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(round((julianday({later}) - julianday({earlier})) * 86400000) AS INTEGER)"


@compiles(ElapsedMs, "postgresql")
def _elapsed_postgresql(element: ElapsedMs, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(round(extract(epoch from {later} - {earlier}) * 1000) AS BIGINT)"


class Clock(GenericFunction[datetime]):
    """This moment, by the database's clock: the one clock that all processes share."""

    type = UtcDateTime()
    inherit_cache = True
    name = "clock"


@compiles(Clock, "sqlite")
def _clock_sqlite(element: Clock, compiler: Any, **options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(Clock, "postgresql")
def _clock_postgresql(element: Clock, compiler: Any, **options: Any) -> str:
    return "clock_timestamp()"

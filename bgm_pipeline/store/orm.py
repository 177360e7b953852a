"""The tables, for SQLite and PostgreSQL alike.

A time inside a recording is a whole number of milliseconds from the start of the file's presentation
timeline. A moment of the world is kept in UTC. Levels are dB, probabilities 0..1. `docs/database.md`
describes tables, indexes and views for those who bring their own SQL.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

SCHEMA_REVISION = "0005"
"""The Alembic revision that these tables are; a test holds it to the newest migration."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC: SQLite has no type for it, PostgreSQL answers in its own zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a datetime without a time zone cannot be stored: {value}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Parent of all tables; constraints get names, so that a migration can find them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, float: Double, str: Text}  # noqa: RUF012


class StoreRow(Base):
    """One row: the folder below the stem store's root that belongs to this database alone."""

    __tablename__ = "store"

    namespace: Mapped[str] = mapped_column(String(16), primary_key=True)


class EpisodeRow(Base):
    """One broadcast recording; the same bytes under another name are the same episode.

    `corrected` names those of channel, title and air_start that somebody said, whatever file and tables tell,
    with ", " between them.
    """

    __tablename__ = "episodes"
    __table_args__ = (
        Index(None, "air_start"),
        Index(None, "channel", "air_start"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    source_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    channel: Mapped[str]
    title: Mapped[str]
    air_start: Mapped[datetime | None]
    registered_at: Mapped[datetime]
    corrected: Mapped[str] = mapped_column(server_default=text("''"))


class RunRow(Base):
    """One attempt at an episode. `is_current` marks the good one asked for last: queries show it.

    The bounds say between which values all its segments and events lie, so that a question for rare ones
    need not look into every run.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'failed')", name="state"),
        Index(None, "episode_id", "id"),
        Index(None, "state", "episode_id"),
        Index(None, "duration_ms"),
        Index(
            "uq_runs_current_of_episode",
            "episode_id",
            unique=True,
            sqlite_where=text("is_current = 1"),
            postgresql_where=text("is_current"),
        ),
        Index(
            "ix_runs_bounds",
            "max_music_probability",
            "min_music_to_speech_db",
            "max_music_to_speech_db",
            "is_current",
            "episode_id",
        ),
        Index(
            "uq_runs_running_of_episode",
            "episode_id",
            unique=True,
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    episode_id: Mapped[int] = mapped_column(ForeignKey("episodes.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(8))
    is_current: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str] = mapped_column(default="")
    source_sha256: Mapped[str] = mapped_column(String(64))
    model: Mapped[str]
    model_sha256: Mapped[str] = mapped_column(String(64))
    settings_sha256: Mapped[str] = mapped_column(String(64))
    code_version: Mapped[str]
    owner: Mapped[str]
    flow_run_url: Mapped[str | None]
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    container: Mapped[str | None]
    duration_ms: Mapped[int | None]
    music_ms: Mapped[int | None]
    max_music_probability: Mapped[float | None]
    min_music_to_speech_db: Mapped[float | None]
    max_music_to_speech_db: Mapped[float | None]
    stem_count: Mapped[int | None]
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    selection: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    stage_s: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    gaps: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    damage: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))


class SegmentRow(Base):
    """One cell of the 12 s grid. Its key is the order that it is read in; it needs no other index."""

    __tablename__ = "segments"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    segment_index: Mapped[int] = mapped_column(primary_key=True)
    start_ms: Mapped[int]
    end_ms: Mapped[int]
    has_music: Mapped[bool]
    music_probability: Mapped[float]
    music_to_speech_db: Mapped[float | None]
    mixture_db: Mapped[float]
    music_db: Mapped[float]
    gap_ms: Mapped[int]
    is_skipped: Mapped[bool] = mapped_column(server_default=false())


class EventRow(Base):
    """One span of music, any length."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    event_index: Mapped[int] = mapped_column(primary_key=True)
    start_ms: Mapped[int]
    end_ms: Mapped[int]
    music_probability: Mapped[float]
    music_to_speech_db: Mapped[float | None]


class StemRow(Base):
    """The music of one segment as a file in the stem store."""

    __tablename__ = "stems"
    __table_args__ = (
        ForeignKeyConstraint(
            ["run_id", "segment_index"],
            ["segments.run_id", "segments.segment_index"],
            ondelete="CASCADE",
        ),
        {"sqlite_with_rowid": False},
    )

    run_id: Mapped[int] = mapped_column(primary_key=True)
    segment_index: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    duration_ms: Mapped[int]
    level_db: Mapped[float]

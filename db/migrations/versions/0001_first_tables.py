"""Episodes, runs, segments, events, stems, and the views of them.

Revision ID: 0001
Revises:
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MUSIC_SEGMENTS = """
CREATE VIEW music_segments AS
SELECT
    e.id AS episode_id,
    e.channel,
    e.title,
    e.air_start AS episode_air_start,
    {segment_air_start} AS air_start,
    s.segment_index,
    s.start_ms,
    s.end_ms,
    s.start_ms / CAST(1000 AS DOUBLE PRECISION) AS start_s,
    s.end_ms / CAST(1000 AS DOUBLE PRECISION) AS end_s,
    s.music_probability,
    s.music_to_speech_db,
    s.mixture_db,
    s.music_db,
    t.key AS stem_key,
    r.id AS run_id,
    r.model,
    r.model_sha256,
    r.settings_sha256,
    r.code_version
FROM episodes e
JOIN runs r ON r.episode_id = e.id AND {is_current}
JOIN segments s ON s.run_id = r.id AND {has_music}
LEFT JOIN stems t ON t.run_id = s.run_id AND t.segment_index = s.segment_index
"""

MUSIC_MINUTES_BY_PROGRAMME = """
CREATE VIEW music_minutes_by_programme AS
SELECT
    e.id AS episode_id,
    e.channel,
    e.title,
    e.air_start,
    {air_date} AS air_date,
    r.duration_ms / CAST(60000 AS DOUBLE PRECISION) AS minutes,
    r.music_ms / CAST(60000 AS DOUBLE PRECISION) AS music_minutes,
    r.music_ms / CAST(NULLIF(r.duration_ms, 0) AS DOUBLE PRECISION) AS music_share,
    r.id AS run_id,
    r.model,
    r.model_sha256,
    r.settings_sha256,
    r.code_version
FROM episodes e
JOIN runs r ON r.episode_id = e.id AND {is_current}
"""

DIALECT = {
    "sqlite": {
        "segment_air_start": "strftime('%Y-%m-%d %H:%M:%f', e.air_start, (s.start_ms / 1000.0) || ' seconds')",
        "air_date": "date(e.air_start, 'localtime')",
        "is_current": "r.is_current = 1",
        "has_music": "s.has_music = 1",
    },
    "postgresql": {
        "segment_air_start": "e.air_start + s.start_ms * interval '1 millisecond'",
        "air_date": "CAST(e.air_start AS date)",
        "is_current": "r.is_current",
        "has_music": "s.has_music",
    },
}


def upgrade() -> None:
    store = op.create_table("store", sa.Column("namespace", sa.String(16), primary_key=True))
    op.bulk_insert(store, [{"namespace": secrets.token_hex(4)}])

    op.create_table(
        "episodes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("source_sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("air_start", sa.DateTime(timezone=True)),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("source_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_episodes_air_start"), "episodes", ["air_start"])
    op.create_index(op.f("ix_episodes_channel_air_start"), "episodes", ["channel", "air_start"])

    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("episode_id", sa.Integer, sa.ForeignKey("episodes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source_sha256", sa.String(64), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("settings_sha256", sa.String(64), nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("container", sa.Text),
        sa.Column("duration_ms", sa.Integer),
        sa.Column("music_ms", sa.Integer),
        sa.Column("max_music_probability", sa.Double),
        sa.Column("min_music_to_speech_db", sa.Double),
        sa.Column("max_music_to_speech_db", sa.Double),
        sa.Column("stem_count", sa.Integer),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("selection", sa.JSON),
        sa.Column("stage_s", sa.JSON),
        sa.Column("gaps", sa.JSON),
        sa.Column("damage", sa.JSON),
        sa.CheckConstraint("state IN ('running', 'done', 'failed')", name="state"),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_runs_episode_id_id"), "runs", ["episode_id", "id"])
    op.create_index(op.f("ix_runs_state_episode_id"), "runs", ["state", "episode_id"])
    op.create_index(op.f("ix_runs_duration_ms"), "runs", ["duration_ms"])
    op.create_index(
        "uq_runs_current_of_episode",
        "runs",
        ["episode_id"],
        unique=True,
        sqlite_where=sa.text("is_current = 1"),
        postgresql_where=sa.text("is_current"),
    )
    op.create_index(
        "ix_runs_bounds",
        "runs",
        [
            "max_music_probability",
            "min_music_to_speech_db",
            "max_music_to_speech_db",
            "is_current",
            "episode_id",
        ],
    )
    op.create_index(
        "uq_runs_running_of_episode",
        "runs",
        ["episode_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )

    op.create_table(
        "segments",
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("segment_index", sa.Integer, primary_key=True),
        sa.Column("start_ms", sa.Integer, nullable=False),
        sa.Column("end_ms", sa.Integer, nullable=False),
        sa.Column("has_music", sa.Boolean, nullable=False),
        sa.Column("music_probability", sa.Double, nullable=False),
        sa.Column("music_to_speech_db", sa.Double),
        sa.Column("mixture_db", sa.Double, nullable=False),
        sa.Column("music_db", sa.Double, nullable=False),
        sa.Column("gap_ms", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("event_index", sa.Integer, primary_key=True),
        sa.Column("start_ms", sa.Integer, nullable=False),
        sa.Column("end_ms", sa.Integer, nullable=False),
        sa.Column("music_probability", sa.Double, nullable=False),
        sa.Column("music_to_speech_db", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "stems",
        sa.Column("run_id", sa.Integer, primary_key=True),
        sa.Column("segment_index", sa.Integer, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("level_db", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id", "segment_index"],
            ["segments.run_id", "segments.segment_index"],
            ondelete="CASCADE",
        ),
        sqlite_with_rowid=False,
    )

    words = DIALECT[op.get_context().dialect.name]
    op.execute(MUSIC_SEGMENTS.format(**words))
    op.execute(MUSIC_MINUTES_BY_PROGRAMME.format(**words))


def downgrade() -> None:
    op.execute("DROP VIEW music_minutes_by_programme")
    op.execute("DROP VIEW music_segments")
    for table in ("stems", "events", "segments", "runs", "episodes", "store"):
        op.drop_table(table)

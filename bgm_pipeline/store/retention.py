"""Which runs nobody has a use for any more."""

from datetime import datetime

from sqlalchemy import ColumnElement, and_, or_, select, tuple_
from sqlalchemy.orm import aliased

from bgm_pipeline.store.orm import RunRow


def is_old(before: datetime) -> ColumnElement[bool]:
    """Good runs that are not current, and failed ones that are not the newest of their episode.

    A night leaves a file alone that has a run with its networks and settings, and would make that run anew.
    So good runs stay while their networks and settings (audio streams that were named among them) are in
    use: a run with them began since `before`.

    Args:
        before: runs that ended later are not old.
    """
    later, other = aliased(RunRow), aliased(RunRow)
    made_with = tuple_(RunRow.model_sha256, RunRow.settings_sha256, RunRow.code_version)
    is_newest = ~select(later.id).where(later.episode_id == RunRow.episode_id, later.id > RunRow.id).exists()
    # Not by `exists`, which would look through all runs for every one.
    is_in_use = made_with.in_(
        select(other.model_sha256, other.settings_sha256, other.code_version)
        .where(other.started_at >= before)
        .distinct()
    )
    return and_(
        RunRow.finished_at < before,
        or_(
            and_(RunRow.state == "done", ~RunRow.is_current, ~is_in_use),
            and_(RunRow.state == "failed", ~is_newest),
        ),
    )

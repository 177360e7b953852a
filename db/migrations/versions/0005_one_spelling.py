"""Channels and titles whose accents were made up in another way are spelled as all others.

Revision ID: 0005
Revises: 0004
"""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    episodes = sa.table("episodes", sa.column("id"), sa.column("channel"), sa.column("title"))
    connection = op.get_bind()
    for number, *told in connection.execute(sa.select(episodes)).all():
        channel, title = spelled = [unicodedata.normalize("NFC", text) for text in told]
        if spelled != told:
            change = sa.update(episodes).where(episodes.c.id == number)
            connection.execute(change.values(channel=channel, title=title))


def downgrade() -> None:
    pass

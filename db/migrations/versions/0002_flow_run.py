"""The flow run that a run belongs to, as a link.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("flow_run_url", sa.Text))


def downgrade() -> None:
    op.drop_column("runs", "flow_run_url")

"""Prefect flows: a few lines that call `bgm_pipeline`, which does not know of Prefect."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")

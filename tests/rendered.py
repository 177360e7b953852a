"""Answers as they are exported."""

import codecs
from pathlib import Path
from tempfile import TemporaryDirectory

from pandas import DataFrame

from bgm_pipeline import exports


def render(frame: DataFrame, form: exports.Format) -> bytes:
    """The file of an answer, without the mark that CSV begins with."""
    with TemporaryDirectory() as folder:
        exports.write(frame, form, out := Path(folder, "answer"))
        return out.read_bytes().removeprefix(codecs.BOM_UTF8)

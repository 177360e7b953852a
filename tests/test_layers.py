"""What may be imported where."""

import ast
import subprocess
import sys
from pathlib import Path

import bgm_pipeline


def test_the_package_does_not_know_prefect() -> None:
    imported: set[str] = set()
    for path in Path(bgm_pipeline.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    assert "torch" in imported
    assert "prefect" not in imported and "flows" not in imported


def test_help_imports_nothing_that_is_slow() -> None:
    script = "import sys, bgm_pipeline.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "typer" in loaded.split()
    assert not {"torch", "pandas", "sqlalchemy", "matplotlib", "prefect"} & set(loaded.split())

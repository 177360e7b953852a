"""What may be imported where."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import bgm_pipeline

PACKAGE = Path(bgm_pipeline.__file__).parent


def imported_by(paths: Iterable[Path]) -> set[str]:
    """Names of the packages that modules import, at their top or in a function."""
    imported: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    return imported


def test_the_package_does_not_know_prefect() -> None:
    imported = imported_by(PACKAGE.rglob("*.py"))
    assert "torch" in imported
    assert "prefect" not in imported


def test_commands_alone_know_of_the_flows() -> None:
    commands = set(PACKAGE.glob("cli*.py"))
    assert "flows" in imported_by(commands)
    assert "flows" not in imported_by(set(PACKAGE.rglob("*.py")) - commands)


def test_what_keeps_prefect_running_does_without_it() -> None:
    script = "import sys, flows.up; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "httpx" in loaded.split()
    assert not {"torch", "pandas", "prefect"} & set(loaded.split())


def test_what_operators_ask_does_without_torch() -> None:
    script = "import sys, flows.operate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "prefect" in loaded.split()
    assert "torch" not in loaded.split()


def test_help_imports_nothing_that_is_slow() -> None:
    script = "import sys, bgm_pipeline.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "typer" in loaded.split()
    assert not {"torch", "pandas", "sqlalchemy", "matplotlib", "prefect"} & set(loaded.split())

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


def loaded_by(module: str) -> set[str]:
    """What a new process has loaded once it has imported a module."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_does_not_know_prefect() -> None:
    imported = imported_by(PACKAGE.rglob("*.py"))
    assert "torch" in imported
    assert "prefect" not in imported


def test_commands_alone_know_of_the_flows() -> None:
    commands = set(PACKAGE.glob("cli*.py"))
    assert "flows" in imported_by(commands)
    assert "flows" not in imported_by(set(PACKAGE.rglob("*.py")) - commands)


def test_what_keeps_prefect_running_does_without_it() -> None:
    loaded = loaded_by("flows.up")
    assert "httpx" in loaded
    assert not {"torch", "pandas", "prefect"} & loaded


def test_what_operators_ask_does_without_torch() -> None:
    loaded = loaded_by("flows.operate")
    assert "prefect" in loaded
    assert "torch" not in loaded


def test_help_imports_nothing_that_is_slow() -> None:
    loaded = loaded_by("bgm_pipeline.cli")
    assert "typer" in loaded
    assert not {"torch", "pandas", "sqlalchemy", "matplotlib", "prefect"} & loaded

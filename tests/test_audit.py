"""The audit of locked packages fails for what is vulnerable, and never claims what it did not do."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
SOUND = {"name": "sound", "version": "1", "vulns": []}
BROKEN = {"name": "broken", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the audit with what each service answers."""
    spec = spec_from_file_location("audit", AUDIT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(**answers: list[dict[str, Any]]) -> int:
        monkeypatch.setattr(module, "ask", lambda service, constraints: answers.get(service, []))
        return int(module.main("constraints.txt"))

    return run


def test_a_known_vulnerability_fails(audit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(pypi=[SOUND, BROKEN, UNKNOWN]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "broken 2: CVE-1; mended in: 2.1",
        "dependency audit: 2 packages looked up, 1 are vulnerable",
        "dependency audit: 1 packages that the service does not know: own",
    ]


def test_none_is_said(audit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(osv=[SOUND]) == 0
    assert capsys.readouterr().out == "dependency audit: 1 packages looked up, 0 are vulnerable\n"


@pytest.mark.parametrize("answer", [[], [UNKNOWN]])
def test_an_audit_that_could_not_be_made_says_so(
    audit: Callable[..., int], capsys: pytest.CaptureFixture[str], answer: list[dict[str, Any]]
) -> None:
    """A package index without its own database of vulnerabilities knows no package at all."""
    assert audit(pypi=answer) == 0
    assert "NOT DONE" in capsys.readouterr().out

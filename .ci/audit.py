"""Known vulnerabilities of locked packages, by pip-audit; says so where they cannot be looked up from here.

Exit code 1 where a package has one. Where no vulnerability service answers, nothing is known, which is said
and is no failure: a fresh clone without a network must build.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
_TIMEOUT_S = 180


def main(constraints: str) -> int:
    """Audits a file of locked versions with the first service that knows them."""
    for service in SERVICES:
        audited, skipped, vulnerable = split(ask(service, constraints))
        if audited:
            break
    else:
        print("dependency audit: NOT DONE: no vulnerability service can be reached from here")
        return 0
    for package in vulnerable:
        for one in package["vulns"]:
            cure = ", ".join(one["fix_versions"]) or "none yet"
            print(f"{package['name']} {package['version']}: {one['id']}; mended in: {cure}")
    print(f"dependency audit: {len(audited)} packages looked up, {len(vulnerable)} are vulnerable")
    if skipped:
        names = " ".join(package["name"] for package in skipped)
        print(f"dependency audit: {len(skipped)} packages that the service does not know: {names}")
    return int(bool(vulnerable))


def ask(service: str, constraints: str) -> list[dict[str, Any]]:
    """pip-audit's answer, a dictionary for each package; empty where the service does not answer."""
    command = [Path(sys.executable).with_name("pip-audit"), "--format", "json", "--progress-spinner", "off"]
    command += ["--no-deps", "--disable-pip", "-r", constraints, "-s", service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        answer: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        return []
    return answer


def split(
    answer: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Packages that were looked up, those that were not, and those that are vulnerable."""
    audited = [package for package in answer if "skip_reason" not in package]
    skipped = [package for package in answer if "skip_reason" in package]
    return audited, skipped, [package for package in audited if package["vulns"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""What is in `deploy/`: each file by its own tool, and all of them against the program that they start.

No container engine, cluster or systemd runs here; docs/deploy.md says which of them were seen running.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from bgm_pipeline.settings import names_of

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
UNITS = sorted(DEPLOY.glob("*.service")) + sorted(DEPLOY.glob("*.timer"))
ALL = [DEPLOY / "Dockerfile", DEPLOY / "compose.env.example", *COMPOSE, *MANIFESTS, *UNITS]

OTHERS = {
    *("DO_NOT_TRACK", "PATH", "PYTHONUNBUFFERED", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "CUDA_VISIBLE_DEVICES"),
    *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"),
}
"""Variables of others than bgm and Prefect: Python, NVIDIA's container toolkit, PostgreSQL's image, S3."""


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, timeout=60, check=False
    )


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def variables(path: Path) -> set[str]:
    """The names of the environment variables that a file sets or names."""
    return set(re.findall(r"\b(?:BGM|PREFECT|AWS|POSTGRES|NVIDIA|CUDA)_[A-Z_]+\b", path.read_text()))


def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    done = run(BIN / "hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_are_what_the_compose_specification_says(path: Path) -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_knows(path: Path) -> None:
    done = run(BIN / "kubernetes-validate", "--strict", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(one["metadata"].get("namespace", "bgm") == "bgm" for one in documents(path))


def test_units_are_as_systemd_wants_them(tmp_path: Path) -> None:
    """Programs and files of /opt/bgm are not there; another program stands in for them."""
    for path in UNITS:
        text = re.sub(r"/opt/bgm/\.venv/bin/\w+", sys.executable, path.read_text())
        (tmp_path / path.name.replace("@.", "@0.")).write_text(text)
    units = sorted(tmp_path.iterdir())
    done = run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")
    for unit in (unit for unit in units if unit.suffix == ".service"):
        rated = run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
        assert rated.returncode == 0, f"{unit.name} is open to more than it needs:\n{rated.stdout}"


def test_a_worker_under_systemd_finds_what_flow_runs_are_started_with() -> None:
    """systemd's own PATH has no virtual environment, and Debian has no `python`."""
    unit = (DEPLOY / "bgm-worker@.service").read_text()
    (path,) = re.findall(r"^Environment=PATH=(\S+)$", unit, re.MULTILINE)
    command = documents(DEPLOY / "prefect.yaml")[0]["definitions"]["night"]["job_variables"]["command"]
    program = shutil.which(command.split()[0], path=path.replace("/opt/bgm/.venv/bin", str(BIN)))
    assert program is not None and Path(program).parent == BIN


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes/server.yaml", "bgm-server.service"])
def test_a_server_puts_its_page_where_it_may_write(name: str) -> None:
    """Else Prefect goes on without one: its own package lies on a read-only file system."""
    text = (DEPLOY / name).read_text()
    (folder,) = re.findall(r"PREFECT_UI_STATIC_DIRECTORY(?:=|: |\n *value: )(\S+)", text)
    may_write = "/var/lib/bgm/" if name.endswith(".service") else "/tmp/"  # noqa: S108 - the container's own
    assert folder.startswith(may_write)


def test_the_timer_has_a_night_every_day_of_a_year() -> None:
    """Also as summer time begins and ends."""
    (calendar,) = re.findall(r"^OnCalendar=(.*)$", (DEPLOY / "bgm-nightly.timer").read_text(), re.MULTILINE)
    options = ("--base-time=2026-01-01 00:00 UTC", "--iterations=365")
    told = run("env", "TZ=Europe/Paris", "systemd-analyze", "calendar", *options, calendar).stdout
    nights = re.findall(r"(?:elapse|Iter. #\d+): \w+ (\S+) ", told)
    assert nights == [f"{date(2026, 1, 1) + timedelta(days=day)}" for day in range(365)]


def test_whatever_writes_stems_waits_for_their_disk() -> None:
    writing = [text for text in (path.read_text() for path in UNITS) if "ReadWritePaths=-/srv/stems" in text]
    assert len(writing) == 2
    assert all("\nRequiresMountsFor=/srv/inbox /srv/stems\n" in text for text in writing)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_variable_is_one_that_somebody_reads(path: Path) -> None:
    """Prefect's are looked at in `tests/flows`."""
    named = {name for name in variables(path) if not name.startswith("PREFECT_")}
    assert named <= {*names_of(), *OTHERS}


def test_files_name_variables_at_all() -> None:
    named = set().union(*map(variables, ALL))
    assert {"BGM_DATABASE_URL", "BGM_STEM_STORE", "BGM_INBOX__FOLDER", "PREFECT_API_URL"} <= named


def environments() -> Iterator[tuple[str, str, Any]]:
    """File, variable and value of all environments in compose files and manifests."""
    for path in COMPOSE:
        for service in documents(path)[0]["services"].values():
            for name, value in service.get("environment", {}).items():
                yield path.name, name, value
    for path in MANIFESTS:
        for manifest in documents(path):
            if manifest["kind"] == "ConfigMap":
                yield from ((path.name, name, value) for name, value in manifest["data"].items())
            pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
            for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
                for one in container.get("env", []):
                    yield path.name, one["name"], one.get("value", one.get("valueFrom"))


def test_secrets_are_referred_to_and_never_written_down() -> None:
    secret = re.compile("PASSWORD|SECRET|AUTH_STRING|DATABASE_URL|CONNECTION_URL|ACCESS_KEY")
    held = [(file, name, value) for file, name, value in environments() if secret.search(name)]
    assert len(held) > 10
    for file, name, value in held:
        if file.startswith("compose"):
            assert re.search(r"\$\{[A-Z_]+:\?", value), f"{file}: {name}"
        else:
            assert value.keys() == {"secretKeyRef"}, f"{file}: {name}"
    assert not [one for path in MANIFESTS for one in documents(path) if one["kind"] == "Secret"]
    example = (DEPLOY / "compose.env.example").read_text()
    assert re.findall(r"^(?:\w*PASSWORD|UI_LOGIN|INBOX_FOLDER)=(.*)$", example, re.MULTILINE) == [""] * 4


def test_all_that_compose_leaves_open_is_in_the_example() -> None:
    open_names = {name for path in COMPOSE for name in re.findall(r"\$\{([A-Z_]+)", path.read_text())}
    told = set(re.findall(r"^#?([A-Z_]+)=", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))
    assert open_names - told == {"IMAGE", "GPU_IMAGE"}
    assert told <= open_names


def test_workers_share_what_they_have_to_share() -> None:
    compose = documents(DEPLOY / "compose.yaml")[0]
    worker, others = compose["services"]["worker"], ("upgrade", "register")
    for other in others:
        assert compose["services"][other]["environment"] == worker["environment"]
    mounted = [str(volume).rsplit(":", 2) for volume in worker["volumes"]]
    assert any(parts[-2:] == ["/srv/inbox", "ro"] for parts in mounted)
    assert "data:/var/lib/bgm" in worker["volumes"]
    assert worker["environment"]["PREFECT_LOCAL_STORAGE_PATH"].startswith("/var/lib/bgm/")
    (deployment,) = documents(DEPLOY / "kubernetes" / "worker.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/srv/inbox", "/var/lib/bgm"}


def test_what_deploys_or_rescues_the_night_reads_the_settings_that_workers_read() -> None:
    """Schedules are registered by one, runs are counted by another, episodes are processed by the third."""
    services = documents(DEPLOY / "compose.yaml")[0]["services"]
    read = {name: [one["path"] for one in service.get("env_file", [])] for name, service in services.items()}
    assert {name for name, paths in read.items() if "settings.env" in paths} == {
        *("register", "rescue", "worker")
    }
    assert [name for name, paths in read.items() if "worker.env" in paths] == ["worker"]


def worker_commands() -> Iterator[str]:
    """How the image and the unit start a worker, as a shell takes it."""
    (image,) = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    yield shlex.join(json.loads(image))
    unit = (DEPLOY / "bgm-worker@.service").read_text()
    (start,) = re.findall(r"^ExecStart=/opt/bgm/.venv/bin/(.*)$", unit, re.MULTILINE)
    (default,) = re.findall(r"^Environment=(BGM_NIGHT__EPISODES_AT_ONCE=.*)$", unit, re.MULTILINE)
    yield f': "${{{default.replace("=", ":=")}}}"; {start}'


@pytest.mark.parametrize("command", list(worker_commands()), ids=["image", "unit"])
def test_workers_see_to_as_many_episodes_at_once_as_the_setting_says(tmp_path: Path, command: str) -> None:
    prefect = tmp_path / "prefect"
    prefect.write_text('#!/bin/sh\necho "$@"\n')
    prefect.chmod(0o755)
    path = f"PATH={tmp_path}:/usr/bin:/bin"
    for given, limit in (["BGM_NIGHT__EPISODES_AT_ONCE=3"], "3"), ([], "1"):
        told = run("env", "-i", path, *given, "sh", "-c", command).stdout.split()
        assert told[:2] == ["worker", "start"]
        assert told[told.index("--limit") + 1] == limit


def test_nothing_runs_as_root_or_can_become_it() -> None:
    final = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[-3]
    assert "\nUSER 10001:10001" in final
    for path in MANIFESTS:
        for manifest in documents(path):
            if "template" in manifest.get("spec", {}):
                pod = manifest["spec"]["template"]["spec"]
                assert pod["securityContext"]["runAsNonRoot"] is True
                assert pod["automountServiceAccountToken"] is False
                for container in [*pod.get("initContainers", []), *pod["containers"]]:
                    assert container["securityContext"]["allowPrivilegeEscalation"] is False
                    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    for name, service in documents(DEPLOY / "compose.yaml")[0]["services"].items():
        if "postgres" not in service["image"]:
            assert (service["cap_drop"], service["read_only"]) == (["ALL"], True), name


def commands() -> Iterator[list[str]]:
    """Every command of ours that a file starts."""
    for line in re.findall(r"^ExecStart=(.*)$", "\n".join(path.read_text() for path in UNITS), re.MULTILINE):
        program, *arguments = shlex.split(line)
        yield [Path(program).name, *arguments]
    for service in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        if "command" in service:
            yield service["command"]
    for path in MANIFESTS:
        for manifest in documents(path):
            pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
            for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
                if "command" in container:
                    yield container["command"]


def test_the_commands_of_bgm_exist() -> None:
    ours = [command for command in commands() if command[0] == "bgm"]
    assert ["bgm", "nightly"] in ours and ["bgm", "db", "upgrade"] in ours
    for command in ours:
        program = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()"]
        assert run(*program, *command[1:], "--help").returncode == 0


def test_what_the_dockerfile_copies_makes_a_whole_package(tmp_path: Path) -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    allowed = re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(allowed)
    source = tmp_path / "src"
    source.mkdir()
    for name in names:
        (source / name).symlink_to(ROOT / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = ZipFile(wheel).namelist()
    assert {"bgm_pipeline/cli.py", "flows/nightly.py", "bgm_pipeline/migrations/env.py"} <= set(held)
    assert any(name.endswith("music_detector.safetensors") for name in held)

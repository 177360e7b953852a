# make demo    a demo broadcast is made, its music found, separated, stored and shown
# make test    every test             make lint    ruff, mypy
# make bench   the race: our speed, and that of what else there is (two quiet cores; writes reports/race.*);
#              make bench CORPUS=FOLDER measures what needs recordings, too
# make faults  breaks things on purpose: processes, servers, disks, clocks (half an hour; writes reports/faults.md)
# make audit   known vulnerabilities of what is locked
# make lock    constraints.txt anew, from the newest versions that fit pyproject.toml
# make clean   removes what was built, the demo included; .venv stays
#
# Everything is installed into .venv, with the versions of constraints.txt. PyTorch's wheel on PyPI runs on
# CPUs and on NVIDIA GPUs alike, so that a GPU needs no other install.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# What has no wheel is built with what is locked, too: pip would take the newest build tools instead.
BUILD_TOOLS := hatchling editables setuptools
EXTRAS := '.[dev,bench]'
PIP := $(BIN)/python -m pip
# $(call install,INSTALLER): what constraints.txt locks. All is compiled: services may not write here, and each of
# their processes would compile anew what it imports, for seconds.
install = $(1) -c constraints.txt $(BUILD_TOOLS) && $(1) -c constraints.txt --no-build-isolation -e $(EXTRAS)
# For our own modules, where it is set, as in many containers.
unexport PYTHONDONTWRITEBYTECODE
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.PHONY: demo test lint audit bench faults lock ffmpeg systemd chromium postgresql clean

demo: $(INSTALLED) ffmpeg
	@# Package lists are missing from a fresh container; without root, bgm says what to do.
	@apt-cache show asterisk-moh-opsound-wav >/dev/null 2>&1 || $(ROOT) apt-get -qq update >/dev/null 2>&1 || true
	$(BIN)/bgm demo

test: $(INSTALLED) ffmpeg systemd chromium
	@# tests/conftest.py says which tests stay together; in order, so that the longest part begins early. Two
	@# processes keep two cores busy: torch's own threads would wait for each other. One that dies ends the tests:
	@# pytest-xdist's next one would wait for work for ever.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(INSTALLED)
	$(BIN)/python .ci/audit.py constraints.txt

bench: $(INSTALLED) ffmpeg
	$(BIN)/python benchmarks/race.py --report reports/race.md $(if $(CORPUS),--corpus $(CORPUS))

faults: $(INSTALLED) ffmpeg postgresql
	$(BIN)/python benchmarks/faults.py --report reports/faults.md

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'bgm needs Python 3.11 or newer; name one: make PYTHON=python3.12' >&2; exit 1; }
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	@# uv loads and unpacks beside each other, and is done in a third of pip's time. It does not read pip's
	@# settings: where these name an index of the house, and where uv fails, pip installs.
	! $(PIP) config list | grep -q '\.index-url' && $(PIP) install -q -c constraints.txt uv \
	  && { $(call install,UV_CACHE_DIR=$(VENV)/cache $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python); } \
	  || { $(call install,$(PIP) install); }
	@rm -rf $(VENV)/cache
	@touch $@

# $(call from_debian,PROGRAM,PACKAGE): installs a package where a program is missing and that can be helped.
from_debian = if ! command -v $(1) >/dev/null && command -v apt-get >/dev/null && $(ROOT) true 2>/dev/null; then \
	  install() { $(ROOT) apt-get install -y --no-install-recommends $(2); }; \
	  install || { $(ROOT) apt-get update && install; }; \
	fi

ffmpeg:
	@$(call from_debian,ffprobe,ffmpeg); \
	command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || { echo 'ffmpeg and ffprobe are missing and cannot be installed from here; install them' \
	  '(apt install ffmpeg, dnf install ffmpeg, brew install ffmpeg, https://ffmpeg.org), then run make again' >&2; exit 1; }

# The tests look at the units in deploy/ with its systemd-analyze; nothing is started.
systemd:
	@$(call from_debian,systemd-analyze,systemd); \
	command -v systemd-analyze >/dev/null || \
	  { echo 'systemd-analyze is missing; install systemd (apt install systemd), then run make again' >&2; exit 1; }

# The tests click in Prefect's pages with it.
chromium:
	@$(call from_debian,chromium,chromium); \
	command -v chromium >/dev/null || \
	  { echo 'chromium is missing; install it (apt install chromium), then run make test again' >&2; exit 1; }

# Prefect's server, with several workers, needs one with its extension pg_trgm.
postgresql:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { $(call from_debian,postgres,postgresql); }

lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q $(BUILD_TOOLS)
	build/lock/bin/python -m pip install -q --no-build-isolation $(EXTRAS)
	{ echo '# Made by `make lock`. PyTorch is the same for CPU and GPU: its wheel on PyPI holds both, and the'; \
	  echo '# nvidia-* wheels are its own dependencies on Linux. A machine with a GPU needs no extra.'; \
	  build/lock/bin/python -m pip freeze --all --exclude pip --exclude bgm-pipeline; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	rm -rf build/lock

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache

# make demo    a demo broadcast is made, its music found, separated, stored and shown
# make test    every test             make lint    ruff, mypy             make bench   the quick benchmarks
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
EXTRAS := '.[dev]'
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.PHONY: demo test lint bench lock ffmpeg chromium clean

demo: $(INSTALLED) ffmpeg
	@# Package lists are missing from a fresh container; without root, bgm says what to do.
	@apt-cache show asterisk-moh-opsound-wav >/dev/null 2>&1 || $(ROOT) apt-get -qq update >/dev/null 2>&1 || true
	$(BIN)/bgm demo

test: $(INSTALLED) ffmpeg chromium
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED) ffmpeg
	$(BIN)/python benchmarks/store_queries.py --rows 500000
	$(BIN)/python benchmarks/memory.py --long-s 1800

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'bgm needs Python 3.11 or newer; name one: make PYTHON=python3.12' >&2; exit 1; }
	[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt $(BUILD_TOOLS)
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e $(EXTRAS)
	@touch $@

ffmpeg:
	@has() { command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null; }; \
	install() { $(ROOT) apt-get install -y --no-install-recommends ffmpeg; }; \
	if ! has && command -v apt-get >/dev/null && $(ROOT) true 2>/dev/null; then \
	  install || { $(ROOT) apt-get update && install; }; \
	fi; \
	has || { echo 'ffmpeg and ffprobe are missing and cannot be installed from here; install them' \
	  '(apt install ffmpeg, dnf install ffmpeg, brew install ffmpeg, https://ffmpeg.org), then run make again' >&2; exit 1; }

chromium:
	@has() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }; \
	install() { $(ROOT) apt-get install -y --no-install-recommends chromium; }; \
	if ! has && command -v apt-get >/dev/null && $(ROOT) true 2>/dev/null; then \
	  install || { $(ROOT) apt-get update && install; }; \
	fi; \
	has || { echo 'chromium is missing and cannot be installed from here; the tests click in it: install it' \
	  '(apt install chromium, dnf install chromium), then run make test again' >&2; exit 1; }

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

# make demo, make test, make lint: each does all its own set-up, in a private .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
BENCH_READY := $(VENV)/.ready-bench
GUNICORN := $(VENV)/gunicorn-23
GUNICORN_READY := $(GUNICORN)/.ready
NODE := native_tests/node
NODE_READY := $(NODE)/node_modules/.ready
NODE_THERE := node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null

.PHONY: demo test lint bench setup binutils namespaces clean

demo: $(READY)
	$(BIN)/rudderpipe demo

test: $(READY) $(GUNICORN_READY) $(NODE_READY) binutils namespaces
	@# Two at a time, because most tests wait for a process or a socket.
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check rudderpipe tests native_tests bench
	$(BIN)/ruff format --check rudderpipe tests native_tests bench
	$(BIN)/mypy

bench: $(BENCH_READY)
	$(BIN)/python -m bench.call
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.ring
	$(BIN)/python -m bench.end_to_end
	$(BIN)/python -m bench.slow_plane
	$(BIN)/python -m bench.backlog
	$(BIN)/python -m bench.arrival

setup: $(READY) $(GUNICORN_READY) $(NODE_READY) binutils namespaces

$(BIN)/python:
	@# Debian keeps venv in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "python's venv is missing; installing it with apt-get"; \
	  apt-get update -qq && apt-get install -y -qq python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(GUNICORN_READY): Makefile | $(READY)
	@# Beside the newest one: as process 1 the older ones take an orphan's exit code for a worker's.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(GUNICORN) 'gunicorn==23.*'
	touch $@

binutils:
	@# What PyInstaller needs on Linux.
	@[ "$$(uname)" != Linux ] || { command -v objdump && command -v objcopy; } >/dev/null || { \
	  echo "objdump is missing; installing binutils with apt-get"; apt-get update -qq && apt-get install -y -qq binutils; }

namespaces:
	@# As root on Linux some tests join two hosts by a cable, and cut it.
	@[ "$$(uname)" != Linux ] || [ "$$(id -u)" != 0 ] || command -v ip >/dev/null || { \
	  echo "ip is missing; installing iproute2 with apt-get"; apt-get update -qq && apt-get install -y -qq iproute2; }

$(BENCH_READY): pyproject.toml $(READY) $(NODE_READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench,isal,hiredis]'
	touch $@

$(NODE_READY): $(NODE)/package.json $(NODE)/package-lock.json $(NODE)/.npmrc
	@# The native tests run Bull and RudderStack's Node SDK beside ours.
	@{ $(NODE_THERE) && npm --version >/dev/null 2>&1; } || { \
	  echo "node (18 or later) with npm is missing; installing it with apt-get"; \
	  apt-get update -qq && apt-get install -y -qq nodejs && { npm --version >/dev/null 2>&1 || apt-get install -y -qq npm; }; }
	@$(NODE_THERE) || { echo "the native tests need Node 18 or later with npm; install it and run make again" >&2; exit 1; }
	@cd $(NODE) && npm ci --loglevel=error >/dev/null
	@touch $@

clean:
	rm -rf $(VENV) $(NODE)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

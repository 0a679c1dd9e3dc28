# Each target does all the set-up it needs, on a fresh Debian 12 or 13, as root or as a user with sudo.
.PHONY: help setup demo test check faults model soak api kills screenshots clean

# Lab hosts are network, mount and process namespaces: making them takes root.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E)

help:
	@echo 'make demo     two lab hosts, a guest, a real move there and back, the numbers'
	@echo 'make test     every test, with real QEMU'
	@echo 'make faults   every fault at every step of a move; ARGS="--only X --sample N --jobs N", see docs/faults-how.md'
	@echo 'make model    every fault at every point of a model of two hosts, some ten minutes; make test plays a part'
	@echo 'make soak     four guests around three hosts under random faults, MINUTES=3 SEED=n'
	@echo 'make api      the REST API against its own description, with many examples: EXAMPLES=100, some ten minutes'
	@echo 'make kills    controllers killed and replaced in the middle of drains, half an hour; ARGS="--kills 20 --way N"'
	@echo 'make screenshots  every page of the dashboard and of reports, light and dark, wide and narrow, full and empty'
	@echo 'make check    format, lint, types, layers and the fast tests'
	@echo 'make setup    packages, environment, QEMU 10.0 and guest image, and nothing else'
	@echo 'make clean    remove what set-up made below .cache'

setup:
	scripts/setup

demo:
	scripts/setup --demo
	$(AS_ROOT) .venv/bin/limosa demo

# Tests with real guests wait half of their time: three side by side on two processors. Their order is tests/conftest.py's.
WORKERS ?= 3
test: setup
	$(AS_ROOT) .venv/bin/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

check: setup
	PATH="$(CURDIR)/.venv/bin:$$PATH" just check

faults: setup
	$(AS_ROOT) .venv/bin/python -m limosa.lab.faults_main $(ARGS)

model: setup
	LIMOSA_EVERY=1 .venv/bin/python -m pytest tests/fault/test_two_hosts.py -o timeout=3000

MINUTES ?= 3
soak: setup
	$(AS_ROOT) .venv/bin/python -m limosa.lab.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

EXAMPLES ?= 100
api: setup
	LIMOSA_API_EXAMPLES=$(EXAMPLES) .venv/bin/python -m pytest tests/controller/test_api_schema.py -o timeout=6000

kills: setup
	$(AS_ROOT) .venv/bin/python -m limosa.lab.kills $(ARGS)

screenshots: setup
	.venv/bin/python -m limosa.testing.screens --to build/screenshots $(ARGS)

clean:
	$(AS_ROOT) rm -rf .cache

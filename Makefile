# SPDX-License-Identifier: GPL-3.0-or-later
# Each target calls one real tool; what it calls can be called without make as well.
INVENTORY ?= inventories/two_node
KILLS ?= 100
SECONDS ?= 60
SEED ?= 1
CACHES = /var/cache/cxl-lab $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cxl-lab
PLAYBOOK = .venv/bin/ansible-playbook -i $(INVENTORY)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help lab down test lint unit local scenario scenario-cbd soak soak-lun distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: inventory
inventory:
	@test -e $(INVENTORY) || { echo "make: INVENTORY=$(INVENTORY) does not exist; see ls inventories" >&2; exit 2; }

lab: inventory ## install what is missing and build the lab of $(INVENTORY)
	@scripts/bootstrap lab
	@$(PLAYBOOK) site.yml

down: inventory ## remove the lab; caches stay
	@scripts/bootstrap lab
	@$(PLAYBOOK) playbooks/down.yml

test: lint unit local scenario ## install what is missing and run every test

lint: ## ruff, mypy, yamllint, ansible-lint
	@scripts/bootstrap test
	@scripts/lint

unit: ## unit tests of modules and daemon, C tests under sanitizers
	@scripts/bootstrap test
	@pytest -q tests datapath/tests --ignore=tests/local --ignore=tests/scenarios

local: ## a lab without virtual machines from nothing to nothing, in a minute or two
	@scripts/bootstrap test
	@pytest -v tests/local

scenario: ## the molecule scenario: a lab of two virtual machines from nothing to nothing
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_default_lab.py

scenario-cbd: ## three backends on two virtual machines, resets and a takeover; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_many_blkdevs.py

soak: ## kill -9 of each process of the data path, KILLS times, under a verifying writer
	@scripts/bootstrap test
	@python datapath/tests/soak/kill_loop.py --kills $(KILLS) --seed $(SEED)

soak-lun: ## 64 processes with 8 virtual LUNs each for SECONDS, engine and library under sanitizers
	@scripts/bootstrap test
	@python datapath/tests/soak/lun_load.py --sanitize --seconds $(SECONDS) --seed $(SEED)

distclean: down ## remove the lab and every cache
	@scripts/remove-caches $(CACHES)

# SPDX-License-Identifier: GPL-3.0-or-later
# Each target calls one real tool; what it calls can be called without make as well.
INVENTORY ?= inventories/two_node
KILLS ?= 100
FAULTS ?= 20
HANDOVERS ?= 20
SEED ?= 1
SEEDS ?= 100
RUNS ?= 5
CACHES = /var/cache/cxl-lab $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cxl-lab
PLAYBOOK = .venv/bin/ansible-playbook -i $(INVENTORY)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help lab down status test test-all lint unit local scenario scenario-cbd scenario-topology scenario-kmem scenario-cxlflash scenario-dcd soak soak-lun prove fuzz bench bench-doc distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: inventory
inventory:
	@test -e $(INVENTORY) || { echo "make: INVENTORY=$(INVENTORY) does not exist; see ls inventories" >&2; exit 2; }

lab: inventory ## install what is missing and build the lab of $(INVENTORY)
	@scripts/bootstrap lab $(INVENTORY)
	@$(PLAYBOOK) site.yml

down: inventory ## remove the lab; caches stay
	@scripts/bootstrap lab $(INVENTORY)
	@$(PLAYBOOK) playbooks/down.yml

status: inventory ## how the lab of $(INVENTORY) is, in a table
	@scripts/bootstrap lab $(INVENTORY)
	@$(PLAYBOOK) playbooks/status.yml

test: lint unit local scenario ## install what is missing and run every test

test-all: test scenario-cbd scenario-topology scenario-kmem scenario-cxlflash scenario-dcd ## the same and the long scenarios, on up to eight virtual machines

lint: ## ruff, mypy, yamllint, ansible-lint
	@scripts/bootstrap test
	@scripts/lint

unit: ## unit tests of modules and daemon, C tests under sanitizers
	@scripts/bootstrap test
	@pytest -q -n 3 --dist loadfile --no-loadscope-reorder tests datapath/tests --ignore=tests/local --ignore=tests/scenarios

local: ## a lab without virtual machines from nothing to nothing, in a minute or two
	@scripts/bootstrap test
	@pytest -v tests/local

scenario: ## the molecule scenario: a lab of two virtual machines from nothing to nothing
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_default_lab.py

scenario-cbd: ## three backends on two virtual machines, resets and a takeover; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_many_blkdevs.py

scenario-topology: ## a fabric that changes while it runs, two labs at once, a lab of eight, guests of a cloud image and with other kernels; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_switched.py tests/scenarios/test_two_labs.py tests/scenarios/test_eight_node.py tests/scenarios/test_cloud_image.py tests/scenarios/test_own_kernel.py

scenario-kmem: ## memory as a disk and as swap on a virtual machine, and growth by dynamic capacity; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_kmem_blk_vm.py tests/scenarios/test_kmem_dcd.py

scenario-cxlflash: ## user-space LUNs on the disks of another virtual machine; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_cxlflash.py

scenario-dcd: ## dynamic capacity: four virtual machines that share one device, one with a whole fabric, one with a direct data path; not part of "make test"
	@scripts/bootstrap test
	@pytest -v -s tests/scenarios/test_dcd_pool.py tests/scenarios/test_dcd_fabric.py tests/scenarios/test_dcd_direct.py

soak: ## KILLS, FAULTS of each kind and HANDOVERS under clients that verify, from SEED
	@scripts/bootstrap test
	@python datapath/tests/soak/kill_loop.py --kills $(KILLS) --seed $(SEED)
	@python datapath/tests/soak/fault_loop.py --count $(FAULTS) --seed $(SEED)
	@python datapath/tests/soak/handover.py --handovers $(HANDOVERS) --seed $(SEED)

fuzz: SECONDS ?= 60
fuzz: ## fuzz what reads the bytes of others, SECONDS per target
	@scripts/bootstrap fuzz
	@python scripts/fuzz.py --seconds $(SECONDS)

prove: ## the core on simulated incoherent memory, and each flush and fence left out once; SEEDS of them, from SEED on
	@scripts/bootstrap test
	@python datapath/tests/prove/prove.py --seeds $(SEEDS) --seed $(SEED)

# Without INVENTORY on the command line the machine itself is measured.
bench: SECONDS ?= 1
bench: inventory ## measure the data path, its peers and the machine; with INVENTORY=... a lab that is up
	@scripts/bootstrap test
	@PYTHONPATH=datapath python -m bench $(if $(filter file,$(origin INVENTORY)),run,lab $(INVENTORY)) --runs $(RUNS) --seconds $(SECONDS)

bench-doc: ## put the latest figures into docs/performance.md and README.md
	@scripts/bootstrap test
	@PYTHONPATH=datapath python -m bench doc

soak-lun: SECONDS ?= 60
soak-lun: ## 64 processes with 8 virtual LUNs each for SECONDS, engine and library under sanitizers
	@scripts/bootstrap test
	@python datapath/tests/soak/lun_load.py --sanitize --seconds $(SECONDS) --seed $(SEED)

distclean: down ## remove the lab and every cache
	@scripts/remove-caches $(CACHES)

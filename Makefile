# `make demo` and `make test` set up all they need in .venv; `make help` lists the rest.

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test slow browser lint notebooks pages docs mutate peers zoo bench wheel clean always

# pip reads these two (the second when it builds); empty CONSTRAINTS: the newest versions that setup.cfg admits.
export PIP_CONSTRAINT       := $(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(CONSTRAINTS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two test processes on two cores: BLAS threads beside them would only wait for each other.
export OPENBLAS_NUM_THREADS := 1

help:  ## list what make can do
	@sed -n 's/^\([a-z]*\):.*##/\1	/p' Makefile
	@echo 'PYTHON=$(PYTHON) VENV=$(VENV) CONSTRAINTS=$(CONSTRAINTS): make NAME=VALUE changes one, and rebuilds $(VENV)'

demo: $(VENV)/with-progress  ## train a small policy with DPO and draw what happens: demo/*.png
	$(VENV)/bin/dpo-numpy demo --output_dir demo

test: $(VENV)/with-test  ## run the test suite, but for the slow tests
	$(VENV)/bin/pytest -n 2 --dist worksteal

slow: $(VENV)/with-test $(VENV)/with-notebooks  ## run the slow tests
	$(VENV)/bin/pytest -n 2 --dist worksteal -m slow

browser: $(VENV)/with-browser  ## run the tests of pages in a browser: Chromium, as apt-get install chromium brings it
	$(VENV)/bin/pytest -m browser tests/browser

lint: $(VENV)/with-dev  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

notebooks: $(VENV)/with-notebooks  ## execute notebooks/*.py and write them with their outputs: notebooks/*.ipynb
	$(VENV)/bin/python notebooks/build.py

pages: $(VENV)/with-test  ## write what is generated: golden.json, CONVENTIONS.md and most of docs (DPO_NUMPY_DATA: MYTHS.md too)
	$(VENV)/bin/python tests/golden.py
	$(VENV)/bin/python -m dpo_numpy.conformance.conventions
	$(VENV)/bin/python -m dpo_numpy.playground.build
	$(VENV)/bin/python docs/optima.py
	$(VENV)/bin/python docs/picture.py
	$(VENV)/bin/python docs/roads.py
	$(VENV)/bin/python docs/bug_by_variant.py
	$(VENV)/bin/python docs/faq.py
	test -z "$$DPO_NUMPY_DATA" || { $(VENV)/bin/python docs/real_preferences.py && $(VENV)/bin/python docs/myths.py; }
	$(VENV)/bin/python tests/accuracy.py
	$(VENV)/bin/python tests/exact.py

docs: $(VENV)/with-docs  ## build the site, which opens offline: build/docs/index.html
	$(VENV)/bin/python docs/website.py build/docs

mutate: $(VENV)/with-test  ## change the code in one place at a time: docs/mutation.md (about half an hour)
	$(VENV)/bin/python tests/mutate.py

ZOO ?= .venv-zoo
FRAMEWORKS ?= torch jax

zoo: $(ZOO)/ready  ## the conformance kit on broken and correct losses in torch and JAX too (FRAMEWORKS=torch: 2 minutes)
	OMP_NUM_THREADS=1 $(ZOO)/bin/pytest -n 2 -m slow tests/test_zoo.py -k "$(subst $(eval ) , or ,$(FRAMEWORKS) large)" -rs

$(ZOO)/ready: export PIP_CONSTRAINT :=
$(ZOO)/ready: export PIP_BUILD_CONSTRAINT :=
$(ZOO)/ready:
	$(PYTHON) -m venv --clear $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet $(patsubst torch,torch==2.13.0,$(FRAMEWORKS)) numpy
	$(ZOO)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@

PEERS     ?= .venv-peers
LIBRARIES := trl-1.16 trl-0.28 liger torchtune openrlhf verl mlx-lm-lora

# On Linux, PyTorch's default build brings CUDA along: PIP_EXTRA_INDEX_URL can name an index that has a CPU build.
peers: $(LIBRARIES:%=$(PEERS)/%/ready)  ## real libraries against ours: docs/peers.md, docs/libraries (needs 10 GB)
	set -e; for peer in trl-1.16 trl-0.28; do for script in trl_losses trl_trainer; do \
	  PYTHONPATH=. $(PEERS)/$$peer/bin/python tests/peers/$$script.py --json $(PEERS)/$$peer-$$script.json; done; done
	$(PEERS)/trl-1.16/bin/python tests/peers/report.py --out docs/peers.md $(PEERS)/*.json
	set -e; for library in $(LIBRARIES); do report=docs/libraries/$$library.md; \
	  $(PEERS)/$$library/bin/python tests/peers/rerun.py $$report; \
	  PYTHONPATH=. $(PEERS)/$$library/bin/python tests/peers/kit_$${library%%-*}.py --write $$report; done
	$(PEERS)/trl-1.16/bin/python tests/peers/contents.py

# OpenRLHF wants flash-attn, which wants CUDA; its losses want neither.
$(PEERS)/trl-1.16/ready:    PEER := 'trl==1.16.0' 'transformers==5.23.0'
$(PEERS)/trl-0.28/ready:    PEER := 'trl==0.28.0' 'transformers==4.57.6'
$(PEERS)/liger/ready:       PEER := 'liger_kernel==0.8.5' packaging
$(PEERS)/torchtune/ready:   PEER := 'torchtune==0.6.1' 'torchao==0.11.0'
$(PEERS)/openrlhf/ready:    PEER := --no-deps 'openrlhf==0.11.2'
$(PEERS)/verl/ready:        PEER := 'verl==0.9.1'
$(PEERS)/mlx-lm-lora/ready: PEER := 'mlx-lm-lora==5.10.2' 'mlx-lm==0.32.2' 'mlx[cpu]==0.32.4'
$(PEERS)/mlx-lm-lora/ready: TORCH :=
$(PEERS)/%/ready: TORCH := torch==2.13.0
$(PEERS)/%/ready: export PIP_CONSTRAINT :=
$(PEERS)/%/ready: export PIP_BUILD_CONSTRAINT :=
$(PEERS)/%/ready:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet $(TORCH) numpy scipy
	$(@D)/bin/python -m pip install --quiet $(PEER)
	@touch $@

BENCH ?= .venv-bench

# PIP_EXTRA_INDEX_URL: as for peers. ARGS="--only losses": a part; ARGS=--help lists the rest.
bench: $(BENCH)/ready  ## measure beside torch, JAX, autograd and TRL: benchmarks/results.json, BENCHMARKS.md (idle machine)
	$(BENCH)/bin/python benchmarks/run.py $(ARGS)

$(BENCH)/ready: export PIP_CONSTRAINT :=
$(BENCH)/ready: export PIP_BUILD_CONSTRAINT :=
$(BENCH)/ready: benchmarks/requirements.txt
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	$(BENCH)/bin/python -m pip install --quiet --editable .
	@touch $@

wheel: $(VENV)/with-dev  ## build dist/*.whl
	rm -rf build dist
	$(VENV)/bin/python -m build --wheel

clean:  ## remove everything that is made
	rm -rf $(VENV) $(PEERS) $(ZOO) $(BENCH) demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is good for one interpreter, one place and one set of constraints: its key.
KEY := $(strip $(shell $(PYTHON) -c 'import sys; print(sys.version.split()[0], sys.base_prefix)' 2>/dev/null) $(CURDIR) $(CONSTRAINTS))
ifneq ($(KEY),$(shell cat $(VENV)/key 2>/dev/null))
STALE := always
endif

$(VENV)/key: setup.cfg pyproject.toml $(CONSTRAINTS) $(STALE)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else \
	  "dpo-numpy needs Python 3.11 or newer and $(PYTHON) is %d.%d: name a newer one, as in make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv --clear $(VENV)
	@echo '$(KEY)' > $@

$(VENV)/with-%: $(VENV)/key
	$(VENV)/bin/python -m pip install --quiet --editable '.[$*]'
	@touch $@

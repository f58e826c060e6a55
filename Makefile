# Everything a person needs: each target does its own set-up, on a machine with only Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN     = $(VENV)/bin
# One process of the tests per core; the supervisor names and kills what they leave running.
PYTEST  = $(BIN)/python -m tests.supervisor $(BIN)/python -m pytest -n logical --maxprocesses 8
# The main path of every room, for `make quick`.
QUICK   = tests/test_public_api.py \
  $(addprefix tests/tensors/test_,tensor.py autograd.py edges.py registry.py copies.py io.py loss.py optim.py) \
  $(addprefix tests/compile/,test_calls.py ir trace/test_tracing.py trace/test_guards.py trace/test_writes.py) \
  $(addprefix tests/wire/test_,codec.py wire.py) \
  $(addprefix tests/network/client/test_,client.py errors.py) tests/network/server/test_error_replies.py \
  $(addprefix tests/network/model/test_,calls.py training.py bad_gradients.py) \
  $(addprefix tests/network/model/test_store_,crashes.py restarts.py faults.py) \
  $(addprefix tests/network/exactly_once/test_,faults.py orders.py restarts.py) \
  tests/store/test_journal.py
# What the extras install, with what they depend on.
SIZE_notebooks = 0.9 GB
SIZE_test      = 2 GB
SIZE_docs      = 1 GB
# The documentation: BUILDER=linkcheck asks the sites that pages link to, and needs a network.
BUILDER ?= html
# Jupyter refuses to run as root, as in a container, unless told so.
ROOT_FLAG = $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help lab demo docs generate test quick check chaos faults soak fuzz clean

help:
	@echo "make lab    open JupyterLab on the quickstart (ARGS=--no-browser on a host without a screen)"
	@echo "make demo   serve a model in one process and train it from another, in the terminal"
	@echo "make docs   build the documentation in build/docs/html; runs notebooks whose code has changed (NOTEBOOKS=--all runs all)"
	@echo "make generate  write exports, the stub of methods and docs/ops.md from the registry of ops, and the pages of torch's names and of layers"
	@echo "make test   run every test, linters and type checks included (ARGS='tests/store -x' runs a part, ARGS='-n 0 --pdb' in one process)"
	@echo "make quick  linters, type checks and the fast core of the tests, in less than a minute"
	@echo "make fuzz   2000 random programs, eager and compiled (ARGS='--programs 10000 --seed 7 --jobs 4'), then all tests of the compiler"
	@echo "make check  linters and type checks only"
	@echo "make chaos  random faults against servers with stores (ARGS='--topology chain --faults 1000 --seed 7'; --help says what there is)"
	@echo "make faults kill workers and nannies of a cluster: how long until training goes on? (ARGS='--cut 30' as root)"
	@echo "make soak   half an hour of eight trainers, a composed server and faults: does anything grow?"
	@echo "make clean  remove the virtual environment and caches"

lab: $(VENV)/.notebooks
	PATH="$(abspath $(BIN)):$$PATH" jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/quickstart.ipynb \
	  $(ROOT_FLAG) $(ARGS)

demo: $(VENV)/.notebooks
	$(BIN)/python examples/demo.py $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)
	$(BIN)/python -m sphinx -W --keep-going --quiet -b $(BUILDER) -d build/docs/doctrees docs build/docs/$(BUILDER) $(ARGS)
	@echo "open build/docs/$(BUILDER)/index.html"

generate: $(VENV)/.test
	$(BIN)/python tools/generate_exports.py
	$(BIN)/python tools/generate_stubs.py
	$(BIN)/python tools/generate_reference.py
	$(BIN)/python tools/generate_torch_page.py
	$(BIN)/python tools/generate_layers_page.py

test: check
	$(PYTEST) $(ARGS)

quick: check
	$(PYTEST) -m "not slow" $(QUICK) $(ARGS)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.compile.fuzz $(ARGS)
	LABNET_COMPILED=all $(PYTEST) tests/compile

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos $(ARGS)

faults: $(VENV)/.test
	$(BIN)/python -m tests.cluster.faults $(ARGS)

soak: $(VENV)/.test
	$(BIN)/python -m tests.soak $(ARGS)

# pip is the last thing that venv makes: without it the environment is made anew.
$(VENV)/bin/pip:
	@echo "setting up $(VENV): about two minutes, once"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "labnet needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "could not make a virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }

# One stamp per extra; a change of pyproject.toml installs again.
$(VENV)/.notebooks $(VENV)/.test $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(VENV)/bin/pip
	@echo "installing labnet with the extra '$*': $(SIZE_$*) of packages"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@# JupyterLab would ask over the lower right of the notebook whether to show its news.
	@$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements >/dev/null 2>&1
	@echo "compiling the kernels of layers and optimizers: half a minute"
	@$(BIN)/python -m labnet cache --warm || echo "labnet computes with NumPy alone here"
	@touch $@

clean:
	rm -rf $(VENV) build docs/notebooks .pytest_cache .mypy_cache .ruff_cache .hypothesis

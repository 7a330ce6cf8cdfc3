# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make book    sets up .venv, runs the study on embedded photographs, builds the book
#   make test    sets up .venv, runs the tests
# Further: make pdf (the built book on paper), make lab (JupyterLab), make cluster (Snakemake, which the tests run, too),
# make lock (new versions), make clean (keeps what is set up), make help.

PYTHON ?= python3
BIN := .venv/bin
SAY = printf '\n[%s] %s\n' "$$(date +%H:%M:%S)"

.PHONY: help setup cluster book pdf test lab lock clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -5

setup: .venv/ready

# The stamp is written last: an interrupted set-up is taken up again, never trusted.
.venv/ready: requirements.lock pyproject.toml
	@$(SAY) "Setting up .venv with the exact versions of requirements.lock (7 GB, 2 to 10 minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "This needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 ..."; exit 1; }
	@rm -f $@
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "Python could not create .venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@$(SAY) "Set up: $(CURDIR)/.venv"

cluster: .venv-cluster/ready

# Byte code is left to what is imported: most of these packages never are, and compiling them takes longest.
.venv-cluster/ready: requirements-cluster.lock | .venv/ready
	@$(SAY) "Setting up .venv-cluster with the exact versions of requirements-cluster.lock (0.3 GB, about a minute)"
	@rm -f $@
	@test -x .venv-cluster/bin/python || $(BIN)/python -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r $<
	@touch $@
	@$(SAY) "Set up: $(CURDIR)/.venv-cluster"

book: .venv/ready
	@$(SAY) "Running the notebooks and building the book"
	@$(BIN)/python -m repro.publish

pdf: .venv/ready
	@$(SAY) "Printing the book"
	@$(BIN)/python -m repro.pdf

# Files of tests side by side, a thread each: threads that outnumber the cores make everything several times slower.
# One file more than there are cores, up to 4, since many a test waits for a program that it has started.
test: .venv/ready .venv-cluster/ready
	@$(SAY) "Running the tests (a report of what took longest follows)"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest \
		-n $$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() + 1))') --dist loadfile \
		--no-loadscope-reorder --durations=10 --junit-xml=_build/tests.xml
	@$(SAY) "Tests passed; report: $(CURDIR)/_build/tests.xml"

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir .

# Needs uv; everything else is pinned by its output.
lock:
	uv pip compile --universal --python-version 3.11 --extra test pyproject.toml -o requirements.lock \
		--no-header --no-annotate --upgrade

clean:
	rm -rf _build results/notebooks .pytest_cache .hypothesis .ruff_cache

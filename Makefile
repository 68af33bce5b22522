# What `make run` does, in sizes for a CPU of two cores.
SEED ?= 16
# transitions of the generated dataset
RUN_STEPS ?= 1000000
RUN_ENV ?= maze2d-umaze-v1
RUN_ARGS ?= --device cpu --embed_dim 128 --n_layer 2 --n_head 2 --K 1 --eval_context_length 1 \
	--eval_rtg 120 --online_rtg 120 --num_eval_episodes 50 --replay_size 2500 \
	--actor_rl_coeff 0.1 --use_entropy_reg 0 --stoc 0 --actor_sup_coeff 1 \
	--learning_rate 0.001 --warmup_steps 1000 \
	--weight_decay 0.0001 --critic_learning_rate 0.0002 --num_actor_update_interval 1 \
	--num_updates_per_pretrain_iter 700 --max_online_iters 33 --eval_interval 3 \
	--minimum_sapairs_per_iter 1000

PYTHON ?= python3
# a Python 3.8 to 3.10, for the original engine
LEGACY_PYTHON ?= python3.10
VENV := .venv
LEGACY := .venv-legacy
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install --quiet --disable-pip-version-check
# everything that `make run` makes; one folder of data per size, one of results per call
RUN_DIR := exp/make_run
RUN_DATA := $(RUN_DIR)/data_$(RUN_STEPS)
RUN_FILE := $(RUN_DATA)/$(RUN_ENV).hdf5

.DELETE_ON_ERROR:
.PHONY: help setup legacy run motivation test lint format docs gpu-check clients reliability clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

setup: $(VENV)/.runtime ## make .venv with what training needs

legacy: $(LEGACY)/.installed ## make .venv-legacy with the original engine, for --env_backend d4rl

run: $(VENV)/.runtime $(RUN_FILE) ## generate a dataset, pretrain, fine-tune online, plot curve and paths
	@dir="$(RUN_DIR)/$$(date +%Y%m%d-%H%M%S)" && set -x && \
	$(BIN) main.py --env $(RUN_ENV) --data_dir $(RUN_DATA) --run_dir "$$dir" --seed $(SEED) \
		$(RUN_ARGS) && \
	$(BIN) scripts/plot_paths.py "$$dir" --out "$$dir/paths.png" && \
	$(BIN) scripts/plot_learning_curve.py "$$dir" --out "$$dir/learning_curve.png" && \
	{ set +x; } 2>/dev/null && \
	echo "Results: $$dir (learning_curve.png, paths.png, metrics.csv)" && \
	echo "Next, train up to 120,000 steps: $(BIN) main.py --resume $$dir --max_online_iters 100"

motivation: $(VENV)/.runtime ## the one-step bandit of the paper's section 3.1: figures and a conclusion
	$(BIN) motivation/motivation.py --out exp/motivation

test: lint ## lint, then run the tests
	OMP_NUM_THREADS=1 $(BIN) -m pytest -n 2

lint: $(VENV)/.development ## check style, types and import layers
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m mypy .
	$(VENV)/bin/tach check

format: $(VENV)/.development ## bring the code into its format
	$(BIN) -m ruff check --fix .
	$(BIN) -m ruff format .

docs: $(VENV)/.development ## build the documentation as a site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build --strict

gpu-check: $(VENV)/.development ## check training on an NVIDIA GPU and time it (8 minutes)
	$(BIN) -m gpu_check --device cuda

clients: $(VENV)/.development ## run public programs for D4RL on these environments: make clients CLIENTS=FOLDER
	@$(BIN) -m tests.clients $(CLIENTS)

reliability: $(VENV)/.development ## kill, stop and fill up tiny runs, write docs/RELIABILITY.md (some 15 minutes)
	OMP_NUM_THREADS=1 $(BIN) -m tests.reliability

clean: ## remove .venv and caches; datasets and runs stay
	rm -rf $(VENV) $(LEGACY) site build d4rl_envs.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_FILE): | $(VENV)/.runtime
	$(BIN) data/download_d4rl_basic.py --only $(RUN_ENV) --source generate --steps $(RUN_STEPS) \
		--data_dir $(RUN_DATA)

$(VENV)/.runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 1; }
	test -x $(BIN) || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

$(LEGACY)/.installed: requirements-legacy.txt
	@$(LEGACY_PYTHON) -c 'import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 10))' || \
		{ echo "error: Python 3.8 to 3.10 is needed; name one with make legacy LEGACY_PYTHON=..."; exit 1; }
	test -x $(LEGACY)/bin/python || $(LEGACY_PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(LEGACY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps d4rl==1.1
	@echo "compiling mujoco-py (minutes)"
	@PATH="$(abspath $(LEGACY)/bin):$$PATH" $(LEGACY)/bin/python -I -c 'import mujoco_py' \
		>$(LEGACY)/compile.log 2>&1 || { tail -n 5 $(LEGACY)/compile.log; \
		echo "error: mujoco-py does not compile ($(LEGACY)/compile.log); it needs gcc and the headers of" \
			"OSMesa and OpenGL (Debian: apt install gcc libosmesa6-dev libgl1-mesa-dev)"; exit 1; }
	@touch $@

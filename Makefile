# The verbs that laptops and CI share. PYTHON is the interpreter that .venv is made from.
PYTHON ?= python3
VENV := .venv
# Of its own: no test should run beside a hundred packages of other tools.
BENCH := .venv-bench
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test slow faults lint docs bench bench-gpu clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.done  ## record, kill, resume, replay: the whole story on a small GPT
	$(BIN)/python -m ledger_trainer.demo

test: $(VENV)/test.done  ## what must hold, without what takes long
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m 'not slow and not thorough' $(ARGS)

slow: $(VENV)/test.done  ## what must hold as well: engines on several processes, killed, resumed, replayed; every tracker
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder -m 'slow and not thorough' $(ARGS)

faults: $(VENV)/test.done  ## what `test` and `slow` try a sample of: every fault, hundreds of times, and every layout
	$(BIN)/python -m pytest -n 2 --dist worksteal --faults all tests/faults $(ARGS)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m thorough $(ARGS)

lint: $(VENV)/test.done  ## types, style, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/test.done  ## what docs/plugins.md says of each hook, from the hooks themselves
	$(BIN)/python -m tests.meta.hooks_reference

bench: $(BENCH)/bench.done  ## Ledger beside other tools; make bench ARGS=--help tells how to ask for less
	$(BENCH)/bin/python -m tests.benchmarks $(ARGS)

bench-gpu: $(BENCH)/gpu.done  ## what Ledger costs on a GPU, and whether it is exact there
	$(BENCH)/bin/python -m tests.benchmarks.gpu $(ARGS)

$(BENCH)/bench.done: pyproject.toml constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BENCH)/bin/python -m pip check
	touch $@

# DeepSpeed's engine, and the driver's own account of device time, are part of what is measured there.
$(BENCH)/gpu.done: $(BENCH)/bench.done
	$(BENCH)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,deepspeed,gpu]'
	touch $@

$(VENV)/demo.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/test.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

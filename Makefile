# One command each; `make` lists them. Everything runs in the virtual environment $(VENV), which each
# target brings up to date first (nothing happens when it already is). Many of the slow tests wait for processes that
# they stopped or killed: hence one worker more.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2
SLOW_WORKERS ?= 3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.headwater-installed

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo ui test test-slow check snapshot bench campaign-bad-input campaign-executors campaign-faults campaign-histories campaign-incidents campaign-sources campaign-kills campaign-layouts campaign-machine-faults campaign-goodput campaign-resume campaign-store campaign-s3 campaign-ways-out campaign-ui constraints fixture-home clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

venv: $(INSTALLED) ## install Headwater and its pinned dependencies into .venv

$(INSTALLED): pyproject.toml deploy/constraints.txt deploy/install.sh
	@deploy/install.sh "$(PYTHON)" "$(VENV)"

demo: $(INSTALLED) ## the whole graph on a small real corpus: crawl to an evaluated model
	@$(BIN)/headwater demo

ui: $(INSTALLED) ## the graph in the browser
	@$(BIN)/headwater ui

test: $(INSTALLED) ## all tests but those that take minutes each
	@deploy/with-test-packages.sh $(BIN)/pytest -m 'not slow and not campaign' -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --durations 10

test-slow: $(INSTALLED) ## the others: whole builds that are killed, disturbed, repeated
	@deploy/with-test-packages.sh $(BIN)/pytest -m 'slow and not campaign' -n $(SLOW_WORKERS) --dist loadfile --no-loadscope-reorder --durations 10

check: $(INSTALLED) ## lint, format, types, who may import whom, the shape of the graph, figures in the docs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --output-format concise || { echo 'run: $(BIN)/ruff format'; exit 1; }
	@$(BIN)/pyright
	@$(BIN)/python docs/generate.py --check || { echo 'run: $(BIN)/python docs/generate.py'; exit 1; }
	@$(BIN)/python -m benchmarks.stale
	@$(BIN)/pytest $(wildcard tests/test_import_rules.py tests/test_graph.py tests/test_results.py)

snapshot: $(INSTALLED) ## accept the graph as it is now, after you have read what changed
	@$(BIN)/pytest tests/test_graph.py --snapshot-update

bench: $(INSTALLED) ## every benchmark against its goal; fails where one is missed
	@failed=0; for file in benchmarks/bench_*.py; do name=$$(basename $$file .py); echo "== $$name"; \
	    $(BIN)/python -m benchmarks.$$name || failed=1; done; exit $$failed

campaign-executors: $(INSTALLED) ## the same data on local processes, Ray and a real Slurm (root, slurm-wlm, munge)
	@$(BIN)/python -m tests.campaigns.executors

campaign-sources: $(INSTALLED) ## every source kind on real, damaged and large samples
	@$(BIN)/python -m tests.campaigns.source_kinds

campaign-bad-input: $(INSTALLED) ## pages and servers made to break a crawler: the reason each one ends in, and how much memory it took
	@$(BIN)/python -m tests.campaigns.bad_pages

campaign-kills: $(INSTALLED) ## kill the demo at random moments, resume, compare with an undisturbed run
	@$(BIN)/python -m tests.campaigns.kills

campaign-ways-out: $(INSTALLED) ## make every blocking check of the crawl and global stages fail, type each command of its message
	@$(BIN)/pytest -m 'slow or campaign' -n $(TEST_WORKERS) tests/orchestration/publish/test_blocked_ways_out.py

campaign-ui: $(INSTALLED) ## a person's way through the pages of `headwater ui`, in Debian's chromium; keeps a picture of each
	@HEADWATER_UI_SCREENSHOTS=$${HEADWATER_UI_SCREENSHOTS:-build/ui} $(BIN)/pytest -m campaign tests/end_to_end/ui

campaign-resume: $(INSTALLED) ## kill a training run at random steps, resume it, move it to other layouts: is it the same run?
	@$(BIN)/python -m tests.campaigns.resume

campaign-goodput: $(INSTALLED) ## useful step time over wall time of a run that loses a process every two minutes
	@$(BIN)/python -m tests.campaigns.goodput

campaign-layouts: $(INSTALLED) ## every layout a CPU can run from one checkpoint: the same curve? And memory, estimated and measured
	@$(BIN)/python -m tests.campaigns.layouts
	@$(BIN)/python -m tests.campaigns.memory

campaign-store: $(INSTALLED) ## fail every system call of the Git store and every request of the lakeFS store once
	@$(BIN)/python -m tests.campaigns.store_faults
	@HEADWATER_TEST_LAKEFS_GRAPH=1 $(BIN)/pytest tests/end_to_end/test_lakefs.py

campaign-s3: $(INSTALLED) ## the store's contract tests with its bytes on a real S3 server (Ceph; needs root and its packages)
	@$(BIN)/python -m tests.campaigns.s3

campaign-machine-faults: $(INSTALLED) ## fail reads and memory, kill or stop children of a build with a delta (needs strace)
	@$(BIN)/python -m tests.campaigns.machine_faults

campaign-faults: $(INSTALLED) ## fail the n-th fsync, rename, write and connection of a re-crawl and its build (needs strace)
	@$(BIN)/python -m tests.campaigns.faults

campaign-histories: $(INSTALLED) ## 1,000 random histories of crawls, edits, recipe changes and crashes against builds from scratch
	@$(BIN)/python -m tests.campaigns.histories

campaign-incidents: $(INSTALLED) ## real training runs with garbage, newline-only pages and a wrong learning rate: cause found, recovered?
	@$(BIN)/python -m tests.campaigns.incidents

fixture-home: $(INSTALLED) ## NAME=home-2026-12: keep a small home as the code of now builds it, before an on-disk format changes
	@$(BIN)/python -m tests.fixtures.make_home $(NAME)

constraints: $(INSTALLED) ## rewrite deploy/constraints.txt from the installed versions
	@head -3 deploy/constraints.txt > $(VENV)/constraints.new
	@$(BIN)/pip freeze --exclude-editable | sed -E 's/ @ .*//; s/[+](cpu|cu[0-9]+)$$//' | sort -f >> $(VENV)/constraints.new
	@! grep -nvE '^#|==' $(VENV)/constraints.new || { echo "not from an index, so not pinnable: see above"; exit 1; }
	@mv $(VENV)/constraints.new deploy/constraints.txt

clean: ## remove caches and build outputs; keeps .venv and .headwater (your data)
	@rm -rf build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

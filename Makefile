# make help shows the targets. Without an active virtual environment, .venv is made and used.
DATASET ?= ml-100k
EXAMPLES ?= 2000
PYTHON ?= python3
ifeq ($(VIRTUAL_ENV),)
VENV := .venv
else
VENV := $(VIRTUAL_ENV)
endif
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export PYSPARK_PYTHON := $(abspath $(BIN)/python)
export PYSPARK_DRIVER_PYTHON := $(PYSPARK_PYTHON)
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo notebooks check-pages test test-ci test-all test-lowest fuzz lint audit package bench check-java check-python

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

demo: check-java $(VENV)/.mfspark ## real ratings → model → report (DATASET=ml-100k, ml-latest-small, ml-1m, …, synthetic)
	$(BIN)/spark-submit --properties-file conf/local.conf jobs/pipeline.py \
		--config conf/demo.toml --set data.dataset=$(DATASET)

notebooks: check-java $(VENV)/.mfspark-notebooks ## run the notebooks and store what they show (after make demo)
	@test -d runs/demo/report || $(MAKE) demo
	@test -d runs/demo/comparison || $(BIN)/spark-submit --properties-file conf/local.conf \
		jobs/compare.py --config conf/demo.toml \
		--set 'compare.models=["bias_only", "item_knn", "als", "bayes", "mllib", "blend"]'
	$(BIN)/python notebooks/execute.py

check-pages: $(VENV)/.mfspark-test ## look at the pages of runs/demo in a browser: errors, overflow, accessibility
	$(BIN)/python tests/jobs/check_page.py $(wildcard runs/demo/*/index.html)

# Where it is set, each of some hundred processes would compile the sources for itself.
test test-ci test-all: export PYTHONDONTWRITEBYTECODE :=

test: check-java $(VENV)/spark-classes.jsa ## run the test suite but for its slow part
	$(PYTEST) -m "not slow and not thorough"

test-ci: check-java $(VENV)/spark-classes.jsa ## run what CI runs: all but tests that differ from others only in the way of execution
	$(PYTEST) -m "not thorough"

test-all: check-java $(VENV)/spark-classes.jsa ## run the whole test suite, with all faults on a cluster
	$(PYTEST)

# What depends on the versions most; the rest by tests/versions.py.
LOWEST_TESTS := $(patsubst %,tests/spark/test_%.py,biased_als encoded small_tables recommendations)
test-lowest: check-java $(VENV)/.mfspark-lint ## some tests on the lowest PySpark, and on the lowest Python if it is here
	$(BIN)/python tests/versions.py --pyspark 4.1.0 \
		--python "$$(uv python find 3.10 2>/dev/null || echo $(abspath $(BIN)/python))" \
		-- -n 2 -m "not slow and not thorough" $(LOWEST_TESTS)

fuzz: check-java $(VENV)/.mfspark-test ## the tests of properties with many more examples (EXAMPLES=2000)
	MFSPARK_FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) tests/hostile

lint: $(VENV)/.mfspark-lint ## formatting, style, types, import contracts, the lowest Python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin --quiet --violations --no-tips --target=3.10- mfspark jobs tests
	$(BIN)/bandit -q -c pyproject.toml -r mfspark jobs
	$(BIN)/hadolint conf/Dockerfile

audit: $(VENV)/.mfspark-lint ## known vulnerabilities of all dependencies, asked of the package index
	$(BIN)/pip-audit --strict --disable-pip --requirement .ci/requirements.lock

package: check-java $(VENV)/.mfspark-lint ## dist/: wheel, environment and its archive, list of parts (SBOM), context of an image
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m venv dist/environment
	dist/environment/bin/python -m pip install --quiet dist/mfspark-*.whl
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/mfspark-sbom.json dist/environment/bin/python
	$(BIN)/venv-pack --quiet --prefix dist/environment --output dist/mfspark-env.tar.gz \
		--compress-level 1 --exclude '*/pyspark/*' --exclude '*/pip/*' --exclude '*/tests/*'
	cp -r jobs .ci/requirements.lock dist/
	echo environment > dist/.dockerignore

bench: check-java $(VENV)/.mfspark-test ## speed against pyspark.ml ALS, and of the kernels
	$(BIN)/python tests/benchmarks/kernels.py
	$(BIN)/spark-submit --properties-file conf/benchmark.conf jobs/benchmark.py \
		--config conf/benchmark.toml

check-java:
	@bin=$${JAVA_HOME:+$$JAVA_HOME/bin/}java; \
	major=$$($$bin -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -1); \
	if [ -z "$$major" ] || [ "$$major" -lt 17 ]; then \
		echo "mfspark: Spark needs Java 17 or later, found $${major:-none}. Install it with"; \
		echo "  Debian, Ubuntu   sudo apt-get install openjdk-17-jre-headless"; \
		echo "  macOS            brew install openjdk@17   (then follow its note on the PATH)"; \
		echo "  conda            conda install -c conda-forge openjdk=17"; \
		exit 1; \
	fi

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "mfspark: Python 3.10 or later is needed; install it, or name one: make PYTHON=python3.12"; \
		exit 1; \
	}

$(BIN)/python: | check-python
	$(PYTHON) -m venv $(VENV) || { \
		echo "mfspark: no virtual environment could be made; on Debian, Ubuntu: sudo apt-get install python3-venv"; \
		exit 1; \
	}

$(VENV)/.mfspark: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.mfspark-notebooks: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	@touch $@ $(VENV)/.mfspark

$(VENV)/.mfspark-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.mfspark

# The other core compiles the kernels, which the first tests would do at the same time.
$(VENV)/spark-classes.jsa: tests/class_archive.py $(VENV)/.mfspark-test
	$(BIN)/python -m mfspark.kernels.warm & $(BIN)/python $< && wait

$(VENV)/.mfspark-lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	@touch $@ $(VENV)/.mfspark $(VENV)/.mfspark-test

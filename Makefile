# Everything that is done with this repository, one target each. Each target works alone on a fresh clone: it makes
# .venv when it is missing or older than the lock. PYTHON=python3.12 (say) chooses the Python that .venv is made from.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# PyTorch's threads wait without spinning: where other programs use the cores, spinning is many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help
help: ## list the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: book
book: $(INSTALLED) ## build the book with every cell executed, test its pages, print the page to open
	@$(BIN)/python -m tools.book.build
	@$(BIN)/python -m pytest tests/book -m "not colab" -n logical --maxprocesses 4 --dist worksteal
	@echo "Open $(CURDIR)/_build/html/index.html"

.PHONY: pdf
pdf: $(INSTALLED) ## print the built book as one PDF (after make book; needs a Chromium)
	@$(BIN)/python -m tools.book.pdf

.PHONY: release
release: pdf ## put wheel, PDF, zips and citation into dist/ (after make book): make release TAG=v0.1.0
	@$(BIN)/python -m tools.book.release $(TAG)

.PHONY: test
test: $(INSTALLED) ## test the package and the repository (a few minutes; the book's pages are tested by make book)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --ignore=tests/book -m "not slow" \
		-n logical --maxprocesses 4 --dist worksteal

.PHONY: slow-tests
slow-tests: $(INSTALLED) ## the tests that take processes, kills or compilers (minutes)
	@$(BIN)/python -m pytest --ignore=tests/book -m slow

.PHONY: colab
colab: $(INSTALLED) ## run each learner's notebook in a fresh environment, as Colab would
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest tests/book/test_colab.py -m colab

# The packages of the Python at hand stay as they are; what runs the notebooks lives beside them.
.PHONY: colab-image
colab-image: ## run each learner's notebook with the packages that Python has, as within Colab's runtime image
	@$(PYTHON) -m venv --system-site-packages .venv-colab
	@.venv-colab/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout nbclient nbformat beautifulsoup4 pyyaml
	@DEEPVIT_EDU_COLAB_PYTHON=$(PYTHON) .venv-colab/bin/python -m pytest tests/book/test_colab.py -m colab

.PHONY: bounds
bounds: ## test the package with the oldest or newest packages it allows: make bounds RESOLUTION=lowest-direct (needs uv)
	@command -v uv > /dev/null || { echo "make bounds needs uv: pip install uv, then run it again."; exit 1; }
	@uv venv --quiet --clear --seed --python "$$(command -v $(PYTHON))" .venv-bounds
	@uv pip install --quiet --no-config --python .venv-bounds/bin/python --resolution $(or $(RESOLUTION),highest) -e '.[test]'
	@.venv-bounds/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|torchvision|timm|numpy) '
	@.venv-bounds/bin/python -m pytest -m "not slow" $(or $(TESTS),tests/nn tests/diagnostics tests/data tests/training tests/test_zoo.py tests/test_checkpoints.py tests/test_timm.py tests/test_numerics.py tests/test_cli.py)

.PHONY: binder
binder: ## install as Binder does, into .venv-binder, and make a model there
	@$(PYTHON) -m venv .venv-binder
	@PATH="$(CURDIR)/.venv-binder/bin:$$PATH" bash .binder/postBuild
	@.venv-binder/bin/deepvit-edu models "deepvit_*"

.PHONY: notebooks
notebooks: $(INSTALLED) ## write the learner's notebooks beside the chapters, and the instructor's list of exercises
	@$(BIN)/python -m tools.book.notebooks
	@$(BIN)/python -m tools.assignments.exercise_list

.PHONY: assets
assets: $(INSTALLED) ## write the index of records and trained models that the installed package fetches
	@$(BIN)/python -m tools.book.assets

.PHONY: records
records: $(INSTALLED) ## write the tables that follow from the recorded runs
	@$(BIN)/python -m tools.book.tables
	@$(BIN)/python -m tools.book.assets

.PHONY: specimens
specimens: $(INSTALLED) ## train the models that the chapters dissect and that have no record yet (hours of two cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.measure.train_specimens
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.measure.interventions
	@$(BIN)/python -m tools.book.tables
	@$(BIN)/python -m tools.book.assets

# The decisive experiments come first, the long ones last, and at the end the one that wants other images than CIFAR.
# Whatever was cut goes on where it stood.
SECTION ?= full
WORKERS ?= 4
MEASURED := book/records/measurements
.PHONY: gpu
gpu: $(INSTALLED) ## run what waits for a GPU (hours; SECTION=gpu-short: fewer epochs in E1 to E3; WORKERS=12: runs at once)
	@$(BIN)/deepvit-edu bench models --device cuda --models $(WORKERS) --quick --out $(MEASURED)/models_gpu.json
	@for plan in e1_which_part e2_depth e3_cause; do \
		$(BIN)/deepvit-edu run book/experiments/$$plan.yml --section $(SECTION) --device cuda --workers $(WORKERS); \
	done
	@$(BIN)/python -m tools.measure.imagenet_speed --device cuda
	@$(BIN)/deepvit-edu bench data --device cuda --out $(MEASURED)/loading_gpu.json
	@$(BIN)/deepvit-edu bench whole-models --device cuda --batch-size 64 --out $(MEASURED)/whole_models_gpu.json
	@$(BIN)/python -m tools.measure.calibrate --device cuda --seeds 0 1 2 3 4 --out $(MEASURED)/calibration_cifar10_gpu.json
	@for plan in e4_refiner e5_tokens e8_token_labels e7_recipes; do \
		$(BIN)/deepvit-edu run book/experiments/$$plan.yml --device cuda --workers $(WORKERS); \
	done
	@$(MAKE) --no-print-directory records
	@for plan in e6_tiny_imagenet; do \
		$(BIN)/deepvit-edu run book/experiments/$$plan.yml --device cuda --workers $(WORKERS); \
	done
	@$(MAKE) --no-print-directory records

.PHONY: imagenet-smoke
imagenet-smoke: $(INSTALLED) ## train, stop, resume and measure in ImageNet's form, on photographs too where DEEPVIT_EDU_DATA names them
	@OMP_NUM_THREADS=1 DEEPVIT_EDU_SMOKE=1 $(BIN)/python -m pytest tests/training --timeout=1500

.PHONY: assignments
assignments: $(INSTALLED) ## write graded assignments from a seed of your own: make assignments SEED=some-words
	@[ -n "$(SEED)" ] || { echo "Give a seed that students will not guess: make assignments SEED=some-words"; exit 1; }
	@$(BIN)/python -m tools.assignments.write "$(SEED)" $(if $(TEMPLATES),--templates "$(TEMPLATES)")

.PHONY: check-templates
check-templates: $(INSTALLED) ## check templates of your own: make check-templates TEMPLATES=folder
	@[ -n "$(TEMPLATES)" ] || { echo "Name the folder of your templates: make check-templates TEMPLATES=folder"; exit 1; }
	@$(BIN)/python -m tools.assignments.check_templates "$(TEMPLATES)"

.PHONY: grade
grade: $(INSTALLED) .venv-instructor/.installed ## grade a folder: make grade COURSE=assignments/some-words SUBMISSIONS=folder
	@[ -n "$(COURSE)" ] && [ -n "$(SUBMISSIONS)" ] || \
		{ echo "Name both: make grade COURSE=assignments/some-words SUBMISSIONS=folder"; exit 1; }
	@$(BIN)/python -m tools.assignments.grading "$(COURSE)" "$(SUBMISSIONS)" $(OPTIONS)

.PHONY: assignments-smoke
assignments-smoke: $(INSTALLED) .venv-instructor/.installed ## run nbgrader's whole cycle on submissions of every sort
	@$(BIN)/python -m pytest $(addprefix tests/tools/test_,grading.py submissions.py mending.py execution.py)

.PHONY: figures
figures: $(INSTALLED) ## take the figures out of the built book, for slides (after make book)
	@$(BIN)/python -m tools.book.figures

.PHONY: exactness
exactness: $(INSTALLED) ## compare every model with its authors' numbers, and print the table
	@$(BIN)/python -m tools.measure.exactness

.PHONY: timm-tests
timm-tests: $(INSTALLED) ## run timm's own tests of models on ours (fetches its source distribution; minutes)
	@$(BIN)/python -m tools.measure.timm_tests

.PHONY: bench
bench: $(INSTALLED) ## time attentions, data loading, several models at once and whole models on an otherwise idle machine (an hour)
	@$(BIN)/deepvit-edu bench
	@$(BIN)/deepvit-edu bench data
	@$(BIN)/deepvit-edu bench models
	@$(BIN)/deepvit-edu bench whole-models

.PHONY: lint
lint: $(INSTALLED) ## check the style of code, workflows and metadata
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/yamllint --strict -c .yamllint.yml _config.yml _toc.yml .github CITATION.cff
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	@$(BIN)/python -m tools.book.notebooks --check
	@$(BIN)/python -m tools.book.assets --check
	@$(BIN)/python -m tools.book.tables --check
	@$(BIN)/python -m tools.assignments.exercise_list --check

.PHONY: older-versions
older-versions: $(INSTALLED) ## put the pages of releases that stay online beside the built ones (needs gh and the network)
	@for version in $$($(BIN)/python -m tools.book.versions); do \
		gh release download "v$$version" --pattern pages.zip --output - > _build/pages.zip; \
		$(BIN)/python -m zipfile --extract _build/pages.zip "_build/html/v$$version"; \
		rm _build/pages.zip; \
	done

.PHONY: publish-check
publish-check: $(INSTALLED) ## fail while the repository's address is a placeholder or a notebook is stale
	@$(BIN)/python -m tools.book.build --publish --check-only
	@$(BIN)/python -m tools.book.notebooks --check
	@$(BIN)/python -m tools.book.assets --check

.PHONY: links
links: $(INSTALLED) ## check the book's links to other sites (needs the network)
	@PYTHONPATH="$(CURDIR)" $(BIN)/jupyter-book build . --builder linkcheck --path-output _build/links

.PHONY: lock
lock: ## renew requirements.txt from pyproject.toml (needs uv)
	@command -v uv > /dev/null || { echo "make lock needs uv: pip install uv, then run it again."; exit 1; }
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --no-emit-index-url \
		--custom-compile-command "make lock" $(LOCK_OPTIONS) --quiet --output-file requirements.txt
	@printf '%s\n' '# The package itself, from this folder.' '-e .' >> requirements.txt
	@echo 'nbgrader>=0.9.6' | uv pip compile - --universal --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" $(LOCK_OPTIONS) --quiet --output-file requirements-instructor.txt

.PHONY: clean
clean: ## remove what was built (not .venv)
	@rm -rf _build dist .pytest_cache .ruff_cache

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null || \
		{ echo "The book needs Python 3.10 to 3.13, and $(PYTHON) is none of these: name one, as in make $(or $(MAKECMDGOALS),book) PYTHON=python3.12"; exit 1; }
	@echo "Installing the locked packages into .venv (about 5 GB; minutes at the first time)."
	@if command -v uv > /dev/null; then \
		{ [ -x $(BIN)/python ] || uv venv --quiet --seed --python "$$(command -v $(PYTHON))" .venv; } && \
		uv pip install --quiet --python $(BIN)/python -r requirements.txt; \
	else \
		{ [ -x $(BIN)/python ] || $(PYTHON) -m venv .venv; } && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; \
	fi
	@touch $@

# nbgrader lives apart: no reader or learner needs it, and it brings a hundred packages of its own.
.venv-instructor/.installed: requirements-instructor.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nbgrader needs Python 3.11 or newer: name one, as in make grade PYTHON=python3.12"; exit 1; }
	@echo "Installing nbgrader into .venv-instructor."
	@if command -v uv > /dev/null; then \
		{ [ -x .venv-instructor/bin/python ] || uv venv --quiet --seed --python "$$(command -v $(PYTHON))" .venv-instructor; } && \
		uv pip install --quiet --python .venv-instructor/bin/python -r requirements-instructor.txt; \
	else \
		{ [ -x .venv-instructor/bin/python ] || $(PYTHON) -m venv .venv-instructor; } && \
		.venv-instructor/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-instructor.txt; \
	fi
	@touch $@

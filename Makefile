# Requires make and Python 3.11 or newer with its venv module. Everything else is installed in this folder.

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
BIN = $(VENV)/bin
REQUIREMENTS := tests/requirements
TOOLS := dev# the packages in $(VENV); `make demo` needs fewer
PEERS := caching cerberus-1 cerberus-2
GUESTS := old new
WORDS := docs layer functions template.yaml README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md
LAYER_SOURCES = $(shell find layer -type f -not -path '*/__pycache__/*')
APPLICATION = template.yaml samconfig.toml $(shell find functions -type f -not -path '*/__pycache__/*')

export SAM_CLI_TELEMETRY := 0
export UV_PYTHON_DOWNLOADS := never
# Each module is compiled once, not in each process that the tests and tools start.
export PYTHONDONTWRITEBYTECODE :=

# Finds the Pythons of this machine, newest first, that start and can create an environment.
find_pythons = for minor in 14 13 12 11; do \
	for python in python3.$$minor python3 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.$$minor.*/bin/python; do \
	if "$$python" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, $$minor))" 2> /dev/null; then \
	echo "$$python"; break; fi; done; done

pin = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-emit-index-url $1.in --output-file $1.txt $2

.PHONY: help setup layer dist publish build demo run-demo local run-local test check check-code check-types check-template check-consumer check-words docs docs-serve docs-outputs pytest acceptance test-all soak bench simulate fleet figures charts fuzz load format lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready $(VENV)-runtime/.ready $(GUESTS:%=$(VENV)-guests-%/.ready) $(VENV)-postgres/.ready .venv-sam/.ready .venv-cdk/.ready .venv-docs/.ready ## install all tools; the other commands install what they need

layer: build/cerberus-auth-layer.zip build/powertools-layer.zip ## build both layers into build/

dist: layer ## build the files of a release into dist/: package, layers, bills of materials
	rm -rf dist
	mkdir -p dist/layers
	$(BIN)/hatchling build -d dist/package
	cp build/*-layer.zip dist/layers
	cp build/layer/python/cerberus_auth-*.dist-info/sboms/layer.cdx.json dist/layers/cerberus-auth-layer.cdx.json
	cp build/powertools/python/aws_lambda_powertools-*.dist-info/sboms/layer.cdx.json dist/layers/powertools-layer.cdx.json

publish: ## publish both layers: REGIONS="us-west-2 eu-west-1" [PUBLIC=1 | ORGANIZATION=o-…]
	@test -n "$(REGIONS)" || { echo 'REGIONS is not set. Run make publish REGIONS="us-west-2 eu-west-1"' >&2; exit 1; }
	@$(MAKE) --no-print-directory layer
	@$(BIN)/python layer/publish.py --regions "$(REGIONS)" --output build/published.json \
	$(if $(PUBLIC),--public) $(if $(ORGANIZATION),--organization "$(ORGANIZATION)")

build: .aws-sam/build/.ready ## build the SAM application

# Without the tools of `make setup`, these two get a smaller environment.
demo_environment = $(if $(wildcard $(VENV)/.ready),,VENV=.venv-demo TOOLS=demo)

demo: ## invoke each sample function, cold and warm, against a local Cerberus and AWS
	@$(MAKE) --no-print-directory run-demo $(demo_environment)

local: ## run a local Cerberus and AWS until Ctrl-C, and print the commands that use them
	@$(MAKE) --no-print-directory run-local $(demo_environment)

run-local: $(VENV)/.ready
	@PYTHONPATH=layer:tests $(BIN)/python -m local_stack $(ARGS)

run-demo: $(VENV)/.ready $(VENV)-runtime/.ready build
	@PYTHONPATH=layer:tests $(BIN)/python -m local_stack.demo

test: check pytest ## check code, types and template, and run all tests

check: $(VENV)/.ready .venv-sam/.ready .venv-docs/.ready
	@$(MAKE) --no-print-directory --jobs 2 --output-sync check-types check-template check-consumer check-code check-words docs

check-code:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=layer $(BIN)/lint-imports --no-logo --no-cache

check-types:
	$(BIN)/mypy
	$(BIN)/pyrefly check

check-template:
	$(BIN)/cfn-lint template.yaml tests/consumer/template.yaml docs/examples/alarms.yaml docs/examples/many-roles.yaml
	$(BIN)/zizmor --offline --quiet --pedantic .github/workflows
	.venv-sam/bin/sam validate --lint

check-consumer:
	.venv-sam/bin/sam validate --lint --template tests/consumer/template.yaml

check-words:
	$(BIN)/python tests/style/words.py $(WORDS)

docs: .venv-docs/.ready ## build the documentation site: build/site
	PYTHONPATH=tests $(BIN)/python -m documentation

docs-serve: .venv-docs/.ready ## serve the documentation site on this machine, and rebuild each page that changes
	PYTHONPATH=tests $(BIN)/python -m documentation --serve

docs-outputs: $(VENV)/.ready ## write the error messages and outputs of this version into the pages
	PYTHONPATH=layer:tests $(BIN)/python -m documentation.outputs

pytest: setup build layer
	$(BIN)/pytest -n 4 --dist worksteal

acceptance: $(VENV)/.ready ## check your Cerberus: CERBERUS_URL=https://… ACCEPTANCE_SECRET=app/box/secret
	@PYTHONPATH=layer:tests $(BIN)/python -m acceptance

test-all: setup ## run make test with each supported Python of this machine
	@pythons=$$($(find_pythons)); echo Testing on $$pythons; \
	for python in $$pythons; do \
	version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(MAKE) --no-print-directory test PYTHON="$$python" VENV=".venv-$$version"; done; echo Passed on $$pythons

soak: setup ## use a token 100,000 times while a tenth of the service's calls fail
	@PYTHONPATH=layer:tests $(BIN)/python -m benchmarks.soak

bench: setup layer $(PEERS:%=$(VENV)-bench-%/.ready) ## compare times, memory and sizes with other clients
	@PYTHONPATH=layer:tests $(BIN)/python -m benchmarks

simulate: setup ## simulate fleets of up to a million containers
	@PYTHONPATH=layer:tests $(BIN)/python -m simulation

fleet: $(VENV)/.ready ## run an hour of 200 real processes in 10 minutes, with and without the shared cache
	@PYTHONPATH=layer:tests $(BIN)/python -m benchmarks.fleet

figures: setup layer $(PEERS:%=$(VENV)-bench-%/.ready) ## run bench, simulate and fleet, and write their tables and charts into the repository
	@status=0; for name in benchmarks simulation benchmarks.fleet; do \
	PYTHONPATH=layer:tests $(BIN)/python -m $$name --results tests/$${name%%.*}/results || status=$$?; done; \
	$(MAKE) --no-print-directory charts; exit $$status

charts: $(VENV)/.ready ## draw the charts and tables of the documentation, from the last figures
	@PYTHONPATH=layer:tests $(BIN)/python -m benchmarks.charts

fuzz: $(VENV)/.ready ## test every parser with 20,000 malformed responses
	FUZZ_EXAMPLES=20000 $(BIN)/pytest -n 2 tests/unit/test_fuzz.py

load: setup ## run at the highest rate for five minutes, with the service killed and restarted
	@PYTHONPATH=layer:tests $(BIN)/python -m benchmarks.load

format: $(VENV)/.ready ## format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.ready ## pin the newest versions of all packages
	$(call pin,layer/requirements)
	$(call pin,layer/requirements-powertools,$(addprefix --no-emit-package=,botocore python-dateutil six urllib3))
	$(call pin,$(REQUIREMENTS)/uv)
	$(call pin,$(REQUIREMENTS)/dev)
	$(call pin,$(REQUIREMENTS)/demo)
	$(call pin,$(REQUIREMENTS)/runtime)
	$(call pin,$(REQUIREMENTS)/postgres)
	$(call pin,$(REQUIREMENTS)/sam)
	$(call pin,$(REQUIREMENTS)/cdk)
	$(call pin,$(REQUIREMENTS)/docs)
	$(foreach peer,$(PEERS),$(call pin,$(REQUIREMENTS)/bench-$(peer)) &&) true
	$(foreach guests,$(GUESTS),$(call pin,$(REQUIREMENTS)/guests-$(guests)) &&) true

clean: ## remove everything that was built or installed
	rm -rf .venv* .aws-sam .cache build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find functions layer tests -name __pycache__ -prune -exec rm -rf {} +

# A changed pin creates a new environment, so that no old package remains.
$(VENV)/.ready: $(REQUIREMENTS)/uv.txt $(REQUIREMENTS)/$(TOOLS).txt
	@python="$(or $(PYTHON),$$($(find_pythons) | sed -n 1p))"; \
	test -n "$$python" || { echo "No Python 3.11 or newer with its venv module was found. Install it (on Debian and Ubuntu:" \
	"python3 and python3-venv), or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "Installing into $(VENV) with $$("$$python" --version) ..." >&2; "$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --only-binary :all: --python $(VENV) --require-hashes -r $(REQUIREMENTS)/$(TOOLS).txt
	@touch $@

define install
@echo "Installing into $(ENVIRONMENT) ..." >&2
@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(ENVIRONMENT)
@$(BIN)/uv pip install --quiet --only-binary :all: $(FROM_SOURCE) --python $(ENVIRONMENT) --require-hashes -r $<
@touch $@
endef
$(VENV)-runtime/.ready: ENVIRONMENT = $(VENV)-runtime
$(VENV)-postgres/.ready: ENVIRONMENT = $(VENV)-postgres
.venv-sam/.ready: ENVIRONMENT = .venv-sam
.venv-cdk/.ready: ENVIRONMENT = .venv-cdk
.venv-docs/.ready: ENVIRONMENT = .venv-docs
$(VENV)-bench-%/.ready: ENVIRONMENT = $(VENV)-bench-$*
$(VENV)-guests-%/.ready: ENVIRONMENT = $(VENV)-guests-$*
$(VENV)-bench-cerberus-1/.ready: FROM_SOURCE = --no-binary cerberus-python-client
$(VENV)-runtime/.ready: $(REQUIREMENTS)/runtime.txt
$(VENV)-postgres/.ready: $(REQUIREMENTS)/postgres.txt
.venv-sam/.ready: $(REQUIREMENTS)/sam.txt
.venv-cdk/.ready: $(REQUIREMENTS)/cdk.txt
.venv-docs/.ready: $(REQUIREMENTS)/docs.txt
$(VENV)-runtime/.ready $(VENV)-postgres/.ready .venv-sam/.ready .venv-cdk/.ready .venv-docs/.ready: | $(VENV)/.ready
	$(install)
$(VENV)-bench-%/.ready: $(REQUIREMENTS)/bench-%.txt | $(VENV)/.ready
	$(install)
$(VENV)-guests-%/.ready: $(REQUIREMENTS)/guests-%.txt | $(VENV)/.ready
	$(install)

.aws-sam/build/.ready: $(LAYER_SOURCES) $(APPLICATION) | $(VENV)/.ready .venv-sam/.ready
	@echo "Building the application with SAM ..." >&2; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	PATH="$(CURDIR)/$(BIN):$$PATH" .venv-sam/bin/sam build > "$$log" 2>&1 || { cat "$$log" >&2; exit 1; }; \
	grep 'has no byte-code' "$$log" || true
	@touch $@

define build_layer
rm -rf $2
PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) --no-print-directory -C layer build-$1 ARTIFACTS_DIR="$(CURDIR)/$2"
$(BIN)/python layer/archive.py $2 $@
endef
build/cerberus-auth-layer.zip: $(LAYER_SOURCES) | $(VENV)/.ready
	$(call build_layer,CerberusAuthLayer,build/layer)
build/powertools-layer.zip: $(LAYER_SOURCES) | $(VENV)/.ready
	$(call build_layer,PowertoolsLayer,build/powertools)

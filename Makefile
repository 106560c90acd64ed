# The same targets for people and CI. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export CARGO_TERM_QUIET ?= true

.DEFAULT_GOAL := help
.PHONY: help demo test test-all build lint rust-test py-test heavy-test real-deps bench examples pictures wheel sdist clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: build  ## Build, then swap layers of three small models and test what comes out
	$(BIN)/suture demo demo

test: lint rust-test py-test  ## Build, check formatting, types and lints, and run every test

test-all: test heavy-test  ## The same and the heavy tests: those that build what is released, and more variants

$(BIN)/maturin:
	@command -v cargo >/dev/null || { echo "suture is built with Rust; install it (rustup.rs) and run make again" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'maturin>=1.9,<2'

build: $(BIN)/maturin  ## Make the virtual environment and build suture into it
	@. $(BIN)/activate && maturin develop --release --extras dev --quiet >/dev/null 2>$(VENV)/build.log \
		|| { cat $(VENV)/build.log >&2; exit 1; }

lint: build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/stubtest suture._core

rust-test: build
	cargo test --workspace
	SUTURE_ISA=portable cargo test --package suture-core --lib
	SUTURE_ISA=avx2 cargo test --package suture-core --lib

# torch and transformers, for the tests on published models. torch comes without the CUDA libraries its CPU part never
# loads; see tests/real/requirements-torch.txt.
real-deps: build
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r tests/real/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps -r tests/real/requirements-torch.txt

# Two files at a time: tests pass beside a busy process, and most keep one core busy.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --durations=40 --durations-min=4

py-test: build real-deps
	$(PYTEST)

heavy-test: build
	$(PYTEST) -m heavy

bench: build  ## Compare speed and memory with the bare I/O and with mergekit (about an hour, 45 GB of disk)
	cargo build --release -p suture-core --example floor
	$(BIN)/python benches/end_to_end.py --floor target/release/examples/floor
	$(BIN)/python benches/end_to_end.py --floor target/release/examples/floor --cold --only suture floor
	$(BIN)/python benches/end_to_end.py memory
	$(BIN)/python benches/analysis.py --floor target/release/examples/floor

examples: build  ## Run the example configs with suture and with mergekit, and compare what they write
	$(BIN)/python benches/examples.py

pictures: build  ## Make the pictures of the README from the models of `suture demo` (needs chromium)
	$(BIN)/python -m tests.report.pictures docs/pictures

# Where the wheel and the sdist go, and the commit the wheel is told it was made from.
DIST ?= dist
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)
# A wheel for Linux is linked by zig against the libc of manylinux_2_28, whatever this machine's is, and then audited.
LINUX := $(filter Linux,$(shell uname -s))
PORTABLE := $(if $(LINUX),--zig --compatibility manylinux_2_28 --auditwheel check)
# Sources are named in the library, by panics: without the folders of this machine. This takes the place of RUSTFLAGS,
# whose `target-cpu=native` has no business in a release either. \037 keeps paths with spaces whole.
REMAP = -Cllvm-args=-inline-threshold=25$(shell printf -- '\037--remap-path-prefix=%s=%s' '$(CURDIR)' suture \
	"$${CARGO_HOME:-$$HOME/.cargo}" cargo "$$(rustc --print sysroot)" rust)

$(VENV)/.wheel-tools: $(BIN)/maturin
	$(BIN)/pip install --quiet --disable-pip-version-check 'auditwheel>=6.8,<7' 'ziglang>=0.15,<0.18' 'zopfli>=0.4,<0.5'
	@touch $@

wheel: $(if $(LINUX),$(VENV)/.wheel-tools,$(BIN)/maturin)  ## Build the release wheel into dist/ and audit it
	@rm -f $(DIST)/suture-*.whl
	@. $(BIN)/activate && CARGO_ENCODED_RUSTFLAGS="$(REMAP)" SUTURE_COMMIT="$(COMMIT)" \
		maturin build --release --locked $(PORTABLE) --out $(DIST)
	$(if $(LINUX),@$(BIN)/python tests/packaging/pack.py $(DIST)/suture-*.whl)
	@$(BIN)/python tests/packaging/audit.py $(DIST)/suture-*.whl

sdist: $(BIN)/maturin  ## Pack the sources into dist/
	@rm -f $(DIST)/suture-*.tar.gz
	@. $(BIN)/activate && maturin sdist --out $(DIST)

clean:  ## Remove what was built
	rm -rf $(VENV) target dist demo

# `make train` and `make test` work on a fresh checkout; the environment is built once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_BENCHMARK := $(VENV)/.ready-benchmark
READY_DOCS := $(VENV)/.ready-docs
PAGES := build/docs/pages
# uv does not read pip's settings; an extra folder of wheels is handed on.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: train test test-slow install install-torchrec lint types format check build docs benchmark attack download-data proto clean

train: $(READY)
	$(BIN)/python -m deepfm train --config configs/deepfm_movielens.yaml --overwrite

# Each worker computes on one thread: two of them fill two cores, and no result depends on how many.
WORKERS ?= 2
test test-slow: export OMP_NUM_THREADS = 1

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv \
		|| uv pip install --quiet --python $(BIN)/python uv  # a venv made by uv has no pip
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

# For feature.storage: torchrec. No extra, because its metadata would bring torch for CUDA.
install-torchrec: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/torchrec-cpu.txt

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types

# Wheel and source archive in dist/, made by the installed hatchling: no network.
build: $(READY)
	rm -rf dist
	$(BIN)/python -m build --no-isolation

# The pages as a site, build/docs/html/docs/index.html; a link to nowhere is an error. They are copied,
# so that Sphinx does not walk through environments and data, and links work as they do here.
docs: $(READY_DOCS)
	rm -rf $(PAGES)
	mkdir -p $(PAGES)/benchmarks
	cp -R README.md CHANGELOG.md CONTRIBUTING.md LICENSE Makefile configs examples $(PAGES)
	cp benchmarks/README.md $(PAGES)/benchmarks
	mkdir $(PAGES)/docs && cp -R docs/*.md docs/*.png docs/models $(PAGES)/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs $(PAGES) build/docs/html

$(READY_DOCS): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev,docs]"
	touch $@

# PEERS="deepctr-torch recbole" adds these, each in an environment of its own, PEERS=all all of
# them; OPTIONS goes to benchmarks/run.py.
benchmark: $(READY_BENCHMARK)
	$(BIN)/python benchmarks/run.py --peers $(or $(PEERS),none) $(OPTIONS)

$(READY_BENCHMARK): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev,bench]"
	touch $@

# Kills, failing disks, damage, races, changed data, fuzzing; stopped, it goes on where it was.
# OPTIONS may be `kills faults --kills 20`; python -m attacks --help lists them.
ATTACK_MINUTES ?= 120
attack: $(READY)
	$(BIN)/python -m attacks --minutes $(ATTACK_MINUTES) $(OPTIONS)

download-data: $(READY)
	$(BIN)/python -m deepfm download-data

# A generator of 2024: its module runs with every protobuf from 4.25 on, a newer one's does not.
proto: $(READY)
	$(BIN)/uv run --quiet --no-project --isolated --python 3.11 --with grpcio-tools==1.62.3 --with setuptools==75.8.0 \
		python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. deepfm/easyrec/pipeline.proto

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache dist build

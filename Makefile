# Everything runs in .venv, which any target that needs it creates.
#   make PIP_ARGS="..."   passes options to pip, for example another index that carries the torch build wanted
#   make PYTHON=python3.12 uses another interpreter
PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
# The folder with the recorded cases and the scripts that check them.
REFERENCE ?= tests/reference

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
SOURCES := caffe_bridge layers convert tools tests benchmarks setup.py

.PHONY: setup venv demo test pytest wheel-test lint types accept peers clean

setup venv: $(VENV)/.installed

# Some systems ship venv without ensurepip; there the interpreter's own pip fills the environment.
$(VENV)/.dependencies: requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip $(PIP_ARGS); }
	$(PIP) --constraint requirements.lock "$$(grep '^torch==' requirements.lock)"
	$(PIP) -r requirements.lock
	touch $@

# The package itself, editable; its native kernels are compiled here.
$(VENV)/.installed: $(VENV)/.dependencies pyproject.toml setup.py $(wildcard csrc/*)
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/caffe-bridge demo-training

test: wheel-test pytest

# A process for every core, up to four; tests of one file stay together.
pytest: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

wheel-test: setup
	bash tests/wheel/check.sh $(BIN)/python

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

# mypy sees the packages where an installation puts them; paths in its report are those of the sources again. Folders of
# data look like packages to setuptools, which warns of each.
types: setup
	rm -rf build/mypy
	$(BIN)/python -W ignore setup.py --quiet build_py --build-lib build/mypy
	MYPYPATH=build/mypy $(BIN)/mypy --package caffe_bridge > build/mypy.txt; status=$$?; \
		sed -E 's#^build/mypy/(caffe_bridge/(layers|convert|tools)/|)#\2/#; s#^/##' build/mypy.txt; exit $$status

# Every recorded case of the original programs, through the pycaffe face; a training killed twenty times; hostile files,
# cut at every byte and mutated 114,400 times; conversions of a 3 GB model, and the memory they take.
CHECK := $(BIN)/python -m caffe_bridge.pycaffe $(REFERENCE)
accept: setup
	$(CHECK)/check_cases.py $(REFERENCE)/layers
	$(CHECK)/check_cases.py $(REFERENCE)/forks
	$(CHECK)/check_solvers.py $(REFERENCE)/solvers
	$(CHECK)/check_mnc.py $(REFERENCE)/mnc
	$(CHECK)/check_pyfrcnn.py $(REFERENCE)/pyfrcnn
	$(CHECK)/check_files.py $(REFERENCE)/files
	$(CHECK)/check_data.py $(REFERENCE)/data
	for net in mnc5 cfm faster_rcnn; do \
		$(CHECK)/e2e.py check prototxt/$$net/test.prototxt $(REFERENCE)/e2e/$${net}_384x512.npz || exit 1; \
		$(CHECK)/e2e.py check-train prototxt/$$net/train.prototxt $(REFERENCE)/e2e/$${net}_train_256x320.npz || exit 1; \
	done
	KILLS=20 $(BIN)/python -m pytest tests/test_train_net.py -k killed
	ZOO=1 $(BIN)/python -m pytest tests/test_caffe_import_round_trips.py -k there_and_back
	ZOO=1 $(BIN)/python -m pytest tests/test_torch_round_trips.py
	$(BIN)/python tests/fuzzing/driver.py --cut --cases 11000
	MEGABYTES=3000 $(BIN)/python -m pytest -s tests/test_large_weights.py

# What other programs make of the files written here: onnxruntime, and OpenCV 4.14 (the last with a Caffe importer) and
# 5 in environments of their own, since they cannot share one.
PEERS := build/peers
PEER_opencv4 := 4.14.*
PEER_opencv5 := 5.*
$(PEERS)/%/.installed: $(VENV)/.dependencies
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --disable-pip-version-check $(PIP_ARGS) \
		numpy "opencv-python-headless==$(PEER_$*)"
	touch $@

peers: setup $(PEERS)/opencv4/.installed $(PEERS)/opencv5/.installed
	$(BIN)/python tests/peers/compare.py --opencv4 $(PEERS)/opencv4/bin/python --opencv5 $(PEERS)/opencv5/bin/python \
		--work $(PEERS) --record tests/peers/record.json $(PEERS_ARGS)
	$(BIN)/caffe-bridge onnx-table

clean:
	rm -rf build dist output *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find caffe_bridge layers convert tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f caffe_bridge/*.so

# make demo: train MaSSFormer on drawn landscapes and look at its masks.   make test: every default test.
# PYTHON chooses the interpreter (3.11 to 3.13). VENV names another place for the environment.
# TORCH=installed uses the torch and torchvision PYTHON already has; INDEX=<url> takes torch from another index (CPU builds).
PYTHON ?= python3
VENV ?= .venv
TORCH ?= lock
INDEX ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat requirements.lock setup.cfg Makefile | cksum | cut -d' ' -f1)
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-slow lint install clean

demo: install
	$(BIN)/python train.py model=massformer untrained=true

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

install: $(READY)

$(READY): requirements.lock setup.cfg Makefile
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info < (3, 14), 'Python 3.11 to 3.13 is needed: make PYTHON=python3.12'"
ifeq ($(TORCH),installed)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	grep -viE '^(torch|torchvision|triton|nvidia|cuda)' requirements.lock > $(VENV)/lock
else
	$(PYTHON) -m venv $(VENV)
ifneq ($(INDEX),)
	$(BIN)/python -m pip install -q --index-url $(INDEX) torch torchvision
	grep -viE '^(torch|torchvision|triton|nvidia|cuda)[-=]' requirements.lock > $(VENV)/lock
else
	cp requirements.lock $(VENV)/lock
endif
endif
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $(VENV)/lock
	rm -f $(VENV)/.ready-*
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

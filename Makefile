# make demo   a portrait talks: writes $(OUT)/video.mp4
# make test   the tests
# make lint   style, format, types
# Each sets up .venv first; all can be run again, and are quick when nothing is left to do.

PYTHON ?= python3
OUT ?= out/demo
BIN := .venv/bin
INSTALLED := .venv/.installed
LIBRIVOX := /usr/share/pocketsphinx/test/data/librivox
SPEECH := $(LIBRIVOX)/sense_and_sensibility_01_austen_64kb-0890.wav
PORTRAIT := $(OUT)/astronaut.png

# Debian packages, each missing when the file it brings is.
MISSING = $(strip \
	$(if $(shell command -v flite 2>/dev/null),,flite) \
	$(if $(shell command -v g++ 2>/dev/null),,g++) \
	$(if $(wildcard $(SPEECH)),,pocketsphinx-testdata))

.PHONY: demo test lint debian
.DELETE_ON_ERROR:

demo: $(INSTALLED) debian
	@mkdir -p $(OUT)
	@$(BIN)/python -c "from skimage import data, io; io.imsave('$(PORTRAIT)', data.astronaut())"
	$(BIN)/jaxavatar talk $(PORTRAIT) --speech $(SPEECH) --out $(OUT)
	@echo "The video is $(OUT)/video.mp4"

test: $(INSTALLED)
	@$(MAKE) --no-print-directory debian || echo "Tests that need these are skipped." >&2
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable ".[demo,test]"
	@touch $@

debian:
	@missing="$(MISSING)"; [ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "Please install what Debian calls: $$missing" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then as_root=sudo; \
	else echo "Please run as root: apt-get install $$missing" >&2; exit 1; fi; \
	$$as_root apt-get update -qq && $$as_root apt-get install -qq -y --no-install-recommends $$missing

# Two commands matter: `make book` and `make test`. Both set up .venv first, once.
.DEFAULT_GOAL := help
.PHONY: book test engines notebooks serve clean help

# The first Python on the path that the dependencies support.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && echo $$p && break; done)
BIN := .venv/bin

# PyTorch for the machine at hand: PyPI's Linux build brings gigabytes of CUDA, so a Linux
# machine without an NVIDIA driver takes PyTorch's own CPU build of the same version, if it
# reaches it: asked once and briefly, since pip would try for minutes.
TORCH_CPU := https://download.pytorch.org/whl/cpu
TORCH_INDEX = [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null && $(PYTHON) -c \
  "import urllib.request as r; r.urlopen('$(TORCH_CPU)/torch/', timeout=5)" 2>/dev/null \
  && echo --extra-index-url $(TORCH_CPU)

book: .venv/ready  ## execute the notebooks, build the website, say where to open it
	$(BIN)/python book/build.py

test: .venv/ready  ## run all tests: units, notebooks, the website in a real browser
	$(BIN)/python -m pytest -n auto

engines: .venv/ready  ## compare the compiled engines with the reference at length, as CI does
	$(BIN)/python -m pytest -n auto -m engines

notebooks: .venv/ready  ## write notebooks/*.ipynb anew after editing notebooks/*.md
	$(BIN)/python book/build.py notebooks

serve: book  ## build the website and serve it at http://localhost:8000
	$(BIN)/python -m http.server --directory _build/html 8000

clean:  ## remove what was built; the environment in .venv stays
	rm -rf _build

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11, 3.12 or 3.13 is needed, none was found:" \
	  "install one, or name it as in 'make book PYTHON=/path/to/python3.12'" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch $$($(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[book,test]'
	touch $@

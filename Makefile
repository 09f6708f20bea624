# The commands of the workbook; `make` alone lists them.
#   PYTHON=python3.12   another interpreter       PERSON=people:1249   another person
#   FORCE=1             run a finished run again  ARGS="-p DEVICE cuda"  anything else for python -m lib.run (or JupyterLab)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help environment workbook test lab batch site study userstudy
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

# An interpreter will do when it is 3.11 or 3.12 and can make environments (Debian packs that apart).
SUITS := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for one in python3.11 python3.12 python3; do "$$one" -c '$(SUITS)' 2>/dev/null && echo "$$one" && break; done)
VENV := .venv
PY := $(VENV)/bin/python
RUN := $(PY) -m lib.run
OPTIONS = $(if $(PERSON),-p PERSON '$(PERSON)') $(if $(FORCE),--force) $(ARGS)

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name what; do printf 'make %-12s %s\n' "$$name" "$$what"; done

environment: $(VENV)/.installed ## make .venv with the versions pinned in pyproject.toml (2 to 3 minutes, about 2 GB)

# constraints.txt holds the versions of what our requirements require in turn.
# torch goes first: it is the large one, and where a CPU build is offered (an index, a folder of wheels) it is taken alone.
$(VENV)/.installed: pyproject.toml constraints.txt
	@if ! "$(or $(PYTHON),false)" -c '$(SUITS)' 2>/dev/null; then \
	  echo "Wrong Python: '$(or $(PYTHON),none found)'. Remedy: install Python 3.11 or 3.12 with its venv module" >&2; \
	  echo "(Debian, Ubuntu: apt install python3.11-venv), or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@echo "Installing into $(VENV) with $(PYTHON): 2 to 3 minutes ..."
	"$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt "$$(sed -nE 's/^ *"(torch==[^"]*)".*/\1/p' pyproject.toml)"
	$(PY) -m pip install --quiet --constraint constraints.txt --editable .
	$(PY) -m pip check
	@touch $@

workbook: environment ## restore a degraded face blind and personalised (notebook 00, minutes); PERSON=people:1249 for another
	$(RUN) notebooks/00_start_here.ipynb $(OPTIONS)

test: environment ## check the style, run the unit tests, then execute every notebook again and compare its outputs (nbval, strict)
	$(PY) -m ruff check lib tests conftest.py
	$(PY) -m pytest --nbval tests notebooks --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lab: environment ## open working copies of the notebooks in JupyterLab; on a server ARGS="--allow-root --no-browser --ip 0.0.0.0"
	$(PY) -m lib.runs.lab $(ARGS)

batch: environment ## run notebook 00 on five drawn people, two at a time (params/five_people.csv); PEOPLE=table.csv for others
	$(PY) -m lib.batch notebooks/00_start_here.ipynb $(or $(PEOPLE),params/five_people.csv) -f params/batch.yaml --workers 2 $(ARGS)

site: environment ## build a static site of the runs: an index with search and a page for each (runs/site/index.html)
	$(PY) -m lib.runs.site $(ARGS)

study: environment ## run the six arms on many people (params/study.yaml, tens of minutes)
	$(RUN) notebooks/04_dual_pivot_ablation.ipynb -f params/study.yaml $(OPTIONS)

userstudy: environment ## restore the pictures of the example user study (once, about 5 minutes), then serve it on this machine
	@for seed in 1009 1019 1029; do $(RUN) notebooks/00_start_here.ipynb -p PERSON people:$$seed; done
	@for run in runs/00_start_here/people-10[012]9-*; do one="$$run/restored/one-step"; \
	  [ -d "$$one" ] || $(PY) -m lib.onestep "$$run/inputs" --output "$$one"; \
	  [ -d "$$one-with-references" ] || $(PY) -m lib.onestep "$$run/inputs" --references "$$run/references" --output "$$one-with-references"; done
	$(PY) -m lib.userstudy params/user_study.yaml $(ARGS)

#!/usr/bin/env bash
# Makes or reuses .venv, installs, and runs ruff, pyright, the docs' build and pytest; what follows the call goes to pytest.
# VENV_DIR puts the environment elsewhere, PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[dev,docs]'   # pyright and the launchers' tests take their Python from the path
step "ruff"
ruff check .
ruff format --check .
step "pyright"
pyright
step "docs"   # any warning fails: links, anchors, names of the API; no network is needed
NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict --site-dir "$VENV_DIR/site"
step "pytest"
# Two workers of one thread each take half as long as one of two: most of a launcher's test is starting Python. A file's
# tests stay in one worker, which trains what they share once.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} pytest -n 2 --dist loadfile "$@"
step "done"

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
run_tests "$@"
step "done"

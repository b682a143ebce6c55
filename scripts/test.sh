#!/usr/bin/env bash
# Makes or reuses .venv, installs, and runs ruff, pyright and pytest; what follows the call goes to pytest.
# VENV_DIR puts the environment elsewhere, PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[dev]'   # pyright and the launchers' tests take their Python from the path
step "ruff"
ruff check .
ruff format --check .
step "pyright"
pyright
step "pytest"
pytest "$@"
step "done"

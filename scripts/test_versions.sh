#!/usr/bin/env bash
# Runs pytest in an environment with the lowest versions that pyproject.toml states, or with the newest that pip finds:
#   bash scripts/test_versions.sh lowest|newest [PYTEST ARGUMENTS]
# TORCH=2.13.0 takes this torch instead, where an index has only one build for the machine. The environment is
# .venv-lowest or .venv-newest, VENV_DIR puts it elsewhere, PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
which=${1:-}
[[ $which == lowest || $which == newest ]] || { echo "error: '$which' is neither lowest nor newest" >&2; exit 2; }
shift
VENV_DIR=${VENV_DIR:-.venv-$which}
source scripts/environment.sh

ensure_versions "$which" dev "${TORCH:-}"
run_tests "$@"
step "done"

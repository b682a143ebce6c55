#!/usr/bin/env bash
# Makes or reuses .venv, installs, and runs ruff, pyright and pytest; what follows the call goes to pytest.
# VENV_DIR puts the environment elsewhere, PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV_DIR=${VENV_DIR:-.venv}

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2
  return 2
}

# A torch that the machine already has is used as it is: it may be a build for its GPU.
has_torch() { "$1" -c 'import torch; v = torch.__version__.split("."); assert (int(v[0]), int(v[1])) >= (2, 6)' 2>/dev/null; }

stamp=$(cat requirements.txt pyproject.toml | sha256sum | cut -d' ' -f1)
if [[ ! -f $VENV_DIR/installed || $(cat "$VENV_DIR/installed") != "$stamp" ]]; then
  python=$(find_python)
  requirements=$(mktemp)
  trap 'rm -f "$requirements"' EXIT
  if has_torch "$python"; then
    step "environment in $VENV_DIR, with the machine's own torch"
    "$python" -m venv --system-site-packages "$VENV_DIR"
    grep -v '^torch==' requirements.txt > "$requirements"
  else
    step "environment in $VENV_DIR"
    "$python" -m venv "$VENV_DIR"
    cp requirements.txt "$requirements"
    step "torch"
    "$VENV_DIR/bin/pip" install -q "$(grep -o '^torch==[^ ]*' requirements.txt)"
  fi
  step "dependencies"
  "$VENV_DIR/bin/pip" install -q -r "$requirements"
  "$VENV_DIR/bin/pip" install -q -e '.[dev]'
  echo "$stamp" > "$VENV_DIR/installed"
fi

# pyright and the launchers' tests take their Python from the path.
PATH=$(cd "$VENV_DIR" && pwd)/bin:$PATH
export PATH
step "ruff"
ruff check .
ruff format --check .
step "pyright"
pyright
step "pytest"
pytest "$@"
step "done"

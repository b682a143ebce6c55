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

stamp=$(cat requirements.txt pyproject.toml | sha256sum | cut -d' ' -f1)
if [[ ! -f $VENV_DIR/installed || $(cat "$VENV_DIR/installed") != "$stamp" ]]; then
  python=$(find_python)
  requirements=$(mktemp)
  trap 'rm -f "$requirements"' EXIT
  step "environment in $VENV_DIR"
  # A torch that the machine already has is used as it is: it may be a build for its GPU.
  "$python" -m venv --clear --system-site-packages "$VENV_DIR"
  if "$VENV_DIR/bin/python" -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)' 2>/dev/null
  then
    step "the machine's own torch is used"
    grep -v '^torch==' requirements.txt > "$requirements"
  else
    "$python" -m venv --clear "$VENV_DIR"
    cp requirements.txt "$requirements"
    step "torch"
    # First and by itself: without it, another package's range would bring the newest one.
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

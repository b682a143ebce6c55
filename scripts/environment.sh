#!/usr/bin/env bash
# Sourced: `ensure_environment EXTRAS` makes the virtual environment $VENV_DIR (.venv) where there is none, installs the
# project into it (with '[dev]', say) and puts it first on the path. PYTHON chooses the interpreter of a new one.
VENV_DIR=${VENV_DIR:-.venv}

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

find_python() {
  if [[ -n ${PYTHON:-} ]] && ! command -v "$PYTHON" >/dev/null; then
    echo "error: PYTHON=$PYTHON is not there: name a Python of 3.11 or newer, as in PYTHON=python3.11" >&2
    return 2
  fi
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python3.11" >&2
  return 2
}

has_torch() {
  "$VENV_DIR/bin/python" -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)' 2>/dev/null
}

ensure_environment() {
  local extras=$1 stamp python requirements
  stamp=$(cat requirements.txt pyproject.toml setup.py | sha256sum | cut -d' ' -f1)
  if [[ ! -f $VENV_DIR/installed || $(cat "$VENV_DIR/installed") != "$stamp" ]]; then
    step "environment in $VENV_DIR"
    # One that is there stays, with all that somebody has put into it.
    if ! "$VENV_DIR/bin/python" -c '' 2>/dev/null; then
      python=$(find_python)
      "$python" -m venv --clear --system-site-packages "$VENV_DIR"
      has_torch || "$python" -m venv --clear "$VENV_DIR"
    fi
    requirements=$(mktemp)
    # A torch that the machine or the environment already has is used as it is: it may be a build for its GPU.
    if has_torch; then
      step "the torch that is there is used"
      grep -v '^torch==' requirements.txt > "$requirements"
    else
      cp requirements.txt "$requirements"
      step "torch"
      # First and by itself: without it, another package's range would bring the newest one.
      "$VENV_DIR/bin/pip" install -q "$(grep -o '^torch==[^ ]*' requirements.txt)"
    fi
    step "dependencies"
    "$VENV_DIR/bin/pip" install -q -r "$requirements"
    rm -f "$requirements"
    "$VENV_DIR/bin/pip" install -q --no-deps -e .
    echo "$stamp" > "$VENV_DIR/installed"
  fi
  if [[ -n $extras && (! -f $VENV_DIR/installed$extras || $(cat "$VENV_DIR/installed$extras") != "$stamp") ]]; then
    step "dependencies $extras"
    "$VENV_DIR/bin/pip" install -q -e ".$extras"
    echo "$stamp" > "$VENV_DIR/installed$extras"
  fi
  PATH=$(cd "$VENV_DIR" && pwd)/bin:$PATH
  export PATH
}

# `run_tests ARGUMENTS` runs pytest, to which they go. Two workers of one thread each take half as long as one of two: most
# of a launcher's test is starting Python. A file's tests stay in one worker, which trains what they share once. A failure
# is printed when it comes; after a worker that was ended from outside the others would wait for good, so the run ends.
run_tests() {
  step "pytest"
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} pytest -n 2 --dist loadfile --max-worker-restart 0 --instafail "$@"
}

# `ensure_versions lowest|newest EXTRA [TORCH]` does the same with the versions at one end of pyproject.toml's ranges, none
# of them the machine's own. "newest" is made anew once a day.
ensure_versions() {
  local which=$1 extra=$2 torch=${3:+torch==$3} constraints=$VENV_DIR/constraints.txt python stamp
  stamp="$extra $torch $(cat pyproject.toml setup.py configs/lowest_versions.txt | sha256sum | cut -d' ' -f1)"
  [[ $which == lowest ]] || stamp+=" $(date +%F)"
  if [[ ! -f $VENV_DIR/installed || $(cat "$VENV_DIR/installed") != "$stamp" ]]; then
    python=$(find_python)
    step "environment in $VENV_DIR"
    "$python" -m venv --clear "$VENV_DIR"
    "$VENV_DIR/bin/pip" install -q packaging
    if [[ $which == lowest ]]; then
      "$VENV_DIR/bin/python" -m scripts.versions lowest ${torch:+"$torch"} > "$constraints"
    else
      echo "$torch" > "$constraints"
    fi
    step "dependencies [$extra], $which"
    # By the environment too: pip builds this and others' packages in places of their own.
    PIP_CONSTRAINT=$(realpath "$constraints") "$VENV_DIR/bin/pip" install -q -e ".[$extra]"
    echo "$stamp" > "$VENV_DIR/installed"
  fi
  PATH=$(cd "$VENV_DIR" && pwd)/bin:$PATH
  export PATH
}

#!/usr/bin/env bash
# Sourced by the four launchers: `launch COMMAND SETTING... -- ARGUMENT...` becomes `python -m vlv COMMAND`, with the
# SETTINGs (name=value) that have a value, then the arguments of the call, which win over them. CONFIG is the recipe;
# empty, the command takes its own. PYTHON chooses the interpreter.

launch() {
  local command=$1 python=${PYTHON:-python} settings=() project
  shift
  project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  [[ -n ${PYTHON:-} ]] || command -v python >/dev/null || python=python3   # some systems have no plain `python`
  if ! command -v "$python" >/dev/null; then
    echo "error: PYTHON=$python is not there: name a Python of 3.11 or newer, as in PYTHON=.venv/bin/python" >&2
    exit 2
  fi
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is older than Python 3.11: name a newer one, as in PYTHON=.venv/bin/python" >&2
    exit 2
  fi
  while [[ $1 != -- ]]; do
    [[ -z ${1#*=} ]] || settings+=("$1")
    shift
  done
  shift
  [[ -z ${CONFIG:-} ]] || settings+=(--config "$CONFIG")
  export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"
  # An empty array is an unbound variable to bash 4.3 and older, macOS's own among them.
  exec "$python" -m vlv "$command" ${settings[@]+"${settings[@]}"} "$@"
}

#!/usr/bin/env bash
# The paper's questions on the small world: the full recipe, then every row of the table. Resumable. In one go it
# took 2 h 52 min on 2 cores of an AMD EPYC; kept=true takes the full stage 1 from assets/tiny/trained instead of training
# it.
# Other settings: only=ROW, jobs=N (rows side by side, 2), list=true, out=FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[efficientnet]'
exec python -m scripts.small_world.reproduce "$@"

#!/usr/bin/env bash
# The paper's questions on the small world: the full recipe, then every row of the table. Resumable. By the times of its
# runs, each on one of 2 CPU cores with bf16 (AMX): about 4.5 hours with kept=true, which takes stage 1 from
# assets/tiny/trained, and about 6.5 with all of it.
# Other settings: only=ROW, jobs=N (rows side by side, 2), list=true, out=FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[efficientnet]'
exec python -m scripts.small_world.reproduce "$@"

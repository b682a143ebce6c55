#!/usr/bin/env bash
# The paper's questions on the embedded world: the full recipe, then every row of the table. Resumable. On 2 CPU cores with
# bf16 stage 1 takes about 4 hours and all that stands on it about 5; --kept takes stage 1 from assets/tiny/trained.
# Other options: --only ROW, --jobs N (rows side by side, 2), --list, --out FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[efficientnet]'
exec python -m scripts.reproduce_tiny "$@"

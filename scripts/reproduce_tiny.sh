#!/usr/bin/env bash
# The paper's questions on the embedded world: the full recipe, then every row of the table. Resumable. On 2 CPU cores with
# bf16 the full recipe takes about 5 hours, most of it stage 1, and the rows about as long. Options: --only ROW, --list, --out FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment '[efficientnet]'
exec python -m scripts.reproduce_tiny "$@"

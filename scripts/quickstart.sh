#!/usr/bin/env bash
# VLV on the embedded world, from nothing: makes .venv, installs, trains both stages, captions and reconstructs 64
# held-out pictures, and writes outputs/quickstart/report.html. About 10 minutes on 2 CPU cores after installation.
# Run again, it reuses what is there; --clean starts afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment ''
exec python -m vlv.shapes.quickstart "$@"

#!/usr/bin/env bash
# Try VLV on the small world, in minutes on a CPU. Makes .venv, installs, then runs `vlv quickstart`:
#   shipped  the tiny Stable Diffusion, Florence-2 and Qwen2 of assets/tiny, and nothing of stage 1 or stage 2
#   trained  stage 1 on 12,000 pictures without any text, stage 2 on 8,000 pictures with captions, both from nothing
#   measured captions and reconstructions of 300 held-out pictures, before and after each stage
# Writes outputs/quickstart/report.html and summary.json. Run again, it reuses what is there; clean=true starts afresh,
# out=FOLDER writes elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment ''
exec python -m vlv quickstart "$@"

#!/usr/bin/env bash
# Try VLV on the small world, in minutes on a CPU. Makes .venv, installs, then runs `vlv quickstart`:
#   shipped  the tiny Stable Diffusion, Florence-2 and Qwen2 of assets/tiny, and a stage-1 model that has seen 723,200 pictures
#   trained  stage 2, the captioner, on 8,000 pictures with captions
#   measured captions of 500 held-out pictures and reconstructions of 300
# Writes outputs/quickstart/report.html and summary.json. Run again, it reuses what is there; clean=true starts afresh,
# out=FOLDER writes elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

ensure_environment ''
exec python -m vlv quickstart "$@"

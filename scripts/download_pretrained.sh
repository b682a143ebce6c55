#!/usr/bin/env bash
# Pretrained components from the hub, and a check of what arrived. Run it again to resume where it stopped.
# bash scripts/download_pretrained.sh             sd, florence2, qwen and captioner
# bash scripts/download_pretrained.sh sd qwen     these alone; pairs, the training set, comes where it is named
# bash scripts/download_pretrained.sh check=true  fetches nothing
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m vlv download "dir=${checkpoints_dir:-./pretrained_checkpoints}" "data_dir=${data_dir:-./data}" "$@"

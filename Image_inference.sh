#!/usr/bin/env bash
# Images generated again from their embeddings: reconstructions, comparisons, index.html and metrics.json.
# Write a value behind `:-` here, or set it in the environment: SEEDS="1 2 3" bash Image_inference.sh
# What is set here wins over the recipe; any setting as key=value wins over both: bash Image_inference.sh scheduler=ddim
set -euo pipefail

IMAGE_PATH=${IMAGE_PATH:-}                     # recipe: ./assets; an image, a folder or a glob
CKPT_DIR=${CKPT_DIR:-}                         # recipe: ./pretrained_checkpoints/stage1_checkpoint; final/ of a stage 1
OUTPUT_DIR=${OUTPUT_DIR:-}                     # recipe: ./reconstructed_images
SEEDS=${SEEDS:-}                               # recipe: 42; several: SEEDS="1 2 3"
GUIDANCE_SCALE=${GUIDANCE_SCALE:-}             # recipe: 2.0

NUM_INFERENCE_STEPS=${NUM_INFERENCE_STEPS:-}   # recipe: 50
BATCH_SIZE=${BATCH_SIZE:-}                     # recipe: 8; images of one process
NUM_GPUS=${NUM_GPUS:-}                         # recipe: 1; processes
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}       # recipe: null; one of configs/accelerate/
CONFIG=${CONFIG:-}                             # empty: configs/reconstruct.yaml

source "$(dirname "${BASH_SOURCE[0]}")/scripts/launch.sh"
launch reconstruct "image_path=$IMAGE_PATH" "ckpt_dir=$CKPT_DIR" "output_dir=$OUTPUT_DIR" "seeds=$SEEDS" \
  "guidance_scale=$GUIDANCE_SCALE" "num_inference_steps=$NUM_INFERENCE_STEPS" "batch_size=$BATCH_SIZE" \
  "num_gpus=$NUM_GPUS" "accelerate_config=$ACCELERATE_CONFIG" -- "$@"

#!/usr/bin/env bash
# Captions of an image, a folder, a glob or other data (.tar, parquet, hub:, URLs), into one JSON file or what to= says.
# Write a value behind `:-` here, or set it in the environment: IMAGE_PATH=photos bash Caption_inference.sh
# What is set here wins over the recipe; any setting as key=value wins over both: bash Caption_inference.sh precision=fp32
set -euo pipefail

IMAGE_PATH=${IMAGE_PATH:-}                     # recipe: ./assets; an image, a folder or a glob
CKPT_DIR=${CKPT_DIR:-}                         # recipe: ./pretrained_checkpoints/VLV-captioner; final/ of a stage 2
OUTPUT_DIR=${OUTPUT_DIR:-}                     # recipe: null; ./captions.json, or what to= writes
BATCH_SIZE=${BATCH_SIZE:-}                     # recipe: 8; images of one process
NUM_BEAMS=${NUM_BEAMS:-}                       # recipe: 4

MAX_NEW_TOKENS=${MAX_NEW_TOKENS:-}             # recipe: null; what the captioner was trained with
NUM_GPUS=${NUM_GPUS:-}                         # recipe: 1; processes
PREVIEW_DIR=${PREVIEW_DIR:-}                   # recipe: null; a folder: also generate each image from its embeddings
GUIDANCE_SCALE=${GUIDANCE_SCALE:-}             # recipe: 2.0; of previews
NUM_INFERENCE_STEPS=${NUM_INFERENCE_STEPS:-}   # recipe: 50; of previews
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}       # recipe: null; one of configs/accelerate/
CONFIG=${CONFIG:-}                             # empty: configs/caption.yaml

source "$(dirname "${BASH_SOURCE[0]}")/scripts/launch.sh"
launch caption "image_path=$IMAGE_PATH" "ckpt_dir=$CKPT_DIR" "output_path=$OUTPUT_DIR" "batch_size=$BATCH_SIZE" \
  "num_beams=$NUM_BEAMS" "max_new_tokens=$MAX_NEW_TOKENS" "num_gpus=$NUM_GPUS" "preview_dir=$PREVIEW_DIR" \
  "guidance_scale=$GUIDANCE_SCALE" "num_inference_steps=$NUM_INFERENCE_STEPS" \
  "accelerate_config=$ACCELERATE_CONFIG" -- "$@"

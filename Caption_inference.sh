#!/usr/bin/env bash
# Captions of an image, a folder of images or a glob, into one JSON file.
# Edit the values, or set them in the environment: IMAGE_PATH=photos CKPT_DIR=outputs/run/final bash Caption_inference.sh
# Any setting can follow as key=value: bash Caption_inference.sh precision=fp32 num_workers=8
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=${CONFIG:-$here/configs/caption.yaml}

PREVIEW_DIR=${PREVIEW_DIR:-}                        # a folder: also draw each image from its embeddings into it
if [[ $CONFIG == "$here/configs/caption.yaml" ]]; then   # another CONFIG brings its own values for these
  IMAGE_PATH=${IMAGE_PATH:-./assets}
  CKPT_DIR=${CKPT_DIR:-./pretrained_checkpoints/VLV-captioner}
  OUTPUT_DIR=${OUTPUT_DIR:-./captions.json}         # the file that is written
  if [[ -n $PREVIEW_DIR ]]; then                    # these two matter for previews alone
    GUIDANCE_SCALE=${GUIDANCE_SCALE:-2.0}
    NUM_INFERENCE_STEPS=${NUM_INFERENCE_STEPS:-50}
  fi
fi
# Empty: the CONFIG's values. BATCH_SIZE is images a process; NUM_GPUS the number of processes.
BATCH_SIZE=${BATCH_SIZE:-} NUM_BEAMS=${NUM_BEAMS:-} MAX_NEW_TOKENS=${MAX_NEW_TOKENS:-} NUM_GPUS=${NUM_GPUS:-}
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}

settings=()
for pair in image_path=IMAGE_PATH ckpt_dir=CKPT_DIR output_path=OUTPUT_DIR guidance_scale=GUIDANCE_SCALE \
  num_inference_steps=NUM_INFERENCE_STEPS batch_size=BATCH_SIZE num_beams=NUM_BEAMS max_new_tokens=MAX_NEW_TOKENS \
  num_gpus=NUM_GPUS preview_dir=PREVIEW_DIR accelerate_config=ACCELERATE_CONFIG; do
  name=${pair#*=}
  [[ -z ${!name:-} ]] || settings+=("${pair%%=*}=${!name}")
done
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m vlv caption --config "$CONFIG" "${settings[@]}" "$@"

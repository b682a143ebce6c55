#!/usr/bin/env bash
# Images drawn back from their embeddings: reconstructions, comparisons, index.html and metrics.json.
# Edit the values, or set them in the environment: IMAGE_PATH=photos SEEDS="1 2 3" bash Image_inference.sh
# Any setting can follow as key=value: bash Image_inference.sh scheduler=ddim extractor=vision_tower
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=${CONFIG:-$here/configs/reconstruct.yaml}

if [[ $CONFIG == "$here/configs/reconstruct.yaml" ]]; then   # another CONFIG brings its own values for these
  IMAGE_PATH=${IMAGE_PATH:-./assets}
  CKPT_DIR=${CKPT_DIR:-./pretrained_checkpoints/stage1_checkpoint}
  OUTPUT_DIR=${OUTPUT_DIR:-./reconstructed_images}
  GUIDANCE_SCALE=${GUIDANCE_SCALE:-2.0}
  NUM_INFERENCE_STEPS=${NUM_INFERENCE_STEPS:-50}
  SEEDS=${SEEDS:-42}                                # several: SEEDS="1 2 3"
fi
# Empty: the CONFIG's values. BATCH_SIZE is images a process; NUM_GPUS the number of processes.
BATCH_SIZE=${BATCH_SIZE:-} NUM_GPUS=${NUM_GPUS:-} ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}

IFS=', ' read -ra seeds <<<"${SEEDS:-}"
SEEDS=$(IFS=, && echo "${seeds[*]:+[${seeds[*]}]}")   # 1 2 3 -> [1,2,3]
settings=()
for pair in image_path=IMAGE_PATH ckpt_dir=CKPT_DIR output_dir=OUTPUT_DIR guidance_scale=GUIDANCE_SCALE \
  num_inference_steps=NUM_INFERENCE_STEPS seeds=SEEDS batch_size=BATCH_SIZE num_gpus=NUM_GPUS \
  accelerate_config=ACCELERATE_CONFIG; do
  name=${pair#*=}
  [[ -z ${!name:-} ]] || settings+=("${pair%%=*}=${!name}")
done
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m vlv reconstruct --config "$CONFIG" "${settings[@]}" "$@"

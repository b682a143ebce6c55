#!/usr/bin/env bash
# Stage 1: images -> caption embeddings, taught by a frozen text-to-image model.
# Edit the values, or set them in the environment: lr=1e-4 num_gpus=4 bash train_stage1.sh
# Any setting can follow as key=value: bash train_stage1.sh resume=latest max_micro_batch=4 dry_run=true
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=${CONFIG:-$here/configs/stage1.yaml}

train_dataset_path=${train_dataset_path:-./data/Images_6M}   # folder of images, .tar shards or parquet
val_dataset_path=${val_dataset_path:-./assets}
run_name=${run_name:-Stage1_Training}
if [[ $CONFIG == "$here/configs/stage1.yaml" ]]; then   # another CONFIG brings its own values for these
  lr=${lr:-5e-5}
  num_steps=${num_steps:-10000}
  save_step=${save_step:-1000}
  global_batch_size=${global_batch_size:-64}             # = per-device batch x accumulation x processes
  num_gpus=${num_gpus:-8}
  stable_diffusion_model_path=${stable_diffusion_model_path:-./pretrained_checkpoints/stable-diffusion-2-1-base}
fi
florence2_model_path=${florence2_model_path:-./pretrained_checkpoints/Florence-2-large}
output_dir=${output_dir:-./outputs/$run_name}            # the finished model lies in $output_dir/final
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}                 # configs/accelerate/*.yaml; empty is DDP over num_gpus

settings=()
for name in train_dataset_path val_dataset_path run_name lr num_steps save_step global_batch_size num_gpus \
  stable_diffusion_model_path florence2_model_path output_dir; do
  [[ -z ${!name:-} ]] || settings+=("$name=${!name}")
done
[[ -z $ACCELERATE_CONFIG ]] || settings+=("accelerate_config=$ACCELERATE_CONFIG")
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m vlv stage1 --config "$CONFIG" "${settings[@]}" "$@"

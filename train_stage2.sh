#!/usr/bin/env bash
# Stage 2: an MLP and a language model learn to read stage 1's embeddings as captions.
# Edit the values, or set them in the environment: batch_size=4 num_gpus=4 bash train_stage2.sh
# Any setting can follow as key=value: bash train_stage2.sh resume=latest 'train=[mlp,llm]' dry_run=true
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CONFIG=${CONFIG:-$here/configs/stage2.yaml}

dataset_path=${dataset_path:-./data/Image_384_VL_Captions}   # parquet, .tar shards, or folder with captions.json
val_dataset_path=${val_dataset_path:-./assets}
diffusion_model_path=${diffusion_model_path:-./pretrained_checkpoints/stage1_checkpoint}   # stage 1's output_dir/final
run_name=${run_name:-Stage2_Training}
if [[ $CONFIG == "$here/configs/stage2.yaml" ]]; then   # another CONFIG brings its own values for these
  epochs=${epochs:-2}                                    # training ends at epochs or total_steps, whichever is first
  lr=${lr:-1e-5}
  batch_size=${batch_size:-8}                            # per GPU
  total_steps=${total_steps:-10000}
  num_gpus=${num_gpus:-8}
  qwen_model=${qwen_model:-./pretrained_checkpoints/Qwen2.5-3B}
fi
stable_diffusion_model_path=${stable_diffusion_model_path:-}   # empty: where stage 1 found it
florence2_model_path=${florence2_model_path:-}
output_dir=${output_dir:-./outputs/$run_name}            # the finished captioner lies in $output_dir/final
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}                 # configs/accelerate/*.yaml; empty is DDP over num_gpus

settings=()
for name in dataset_path val_dataset_path qwen_model diffusion_model_path run_name epochs lr batch_size total_steps \
  num_gpus save_step stable_diffusion_model_path florence2_model_path output_dir; do
  [[ -z ${!name:-} ]] || settings+=("$name=${!name}")
done
[[ -z $ACCELERATE_CONFIG ]] || settings+=("accelerate_config=$ACCELERATE_CONFIG")
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m vlv stage2 --config "$CONFIG" "${settings[@]}" "$@"

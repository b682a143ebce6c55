#!/usr/bin/env bash
# Stage 1: images -> caption embeddings, learned through a frozen text-to-image model.
# Write a value behind `:-` here, or set it in the environment: lr=1e-4 num_gpus=4 bash train_stage1.sh
# What is set here wins over the recipe; any setting as key=value wins over both: bash train_stage1.sh resume=latest
set -euo pipefail

train_dataset_path=${train_dataset_path:-}   # recipe: ./data/Images_6M; folder of images, .tar shards or parquet
run_name=${run_name:-}                       # recipe: Stage1_Training
lr=${lr:-}                                   # recipe: 5e-5
num_steps=${num_steps:-}                     # recipe: 10000
num_gpus=${num_gpus:-}                       # recipe: 8

global_batch_size=${global_batch_size:-}     # recipe: 64; micro-batch x accumulation x processes
save_step=${save_step:-}                     # recipe: 1000
val_dataset_path=${val_dataset_path:-}       # recipe: ./assets
stable_diffusion_model_path=${stable_diffusion_model_path:-}   # recipe: ./pretrained_checkpoints/stable-diffusion-2-1-base
florence2_model_path=${florence2_model_path:-}                 # recipe: ./pretrained_checkpoints/Florence-2-large
output_dir=${output_dir:-}                   # recipe: ./outputs/Stage1_Training, from run_name; the model is in its final/
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}     # recipe: null; one of configs/accelerate/
CONFIG=${CONFIG:-}                           # empty: configs/stage1.yaml

source "$(dirname "${BASH_SOURCE[0]}")/scripts/launch.sh"
launch stage1 "train_dataset_path=$train_dataset_path" "run_name=$run_name" "lr=$lr" "num_steps=$num_steps" \
  "num_gpus=$num_gpus" "global_batch_size=$global_batch_size" "save_step=$save_step" \
  "val_dataset_path=$val_dataset_path" "stable_diffusion_model_path=$stable_diffusion_model_path" \
  "florence2_model_path=$florence2_model_path" "output_dir=$output_dir" "accelerate_config=$ACCELERATE_CONFIG" -- "$@"

#!/usr/bin/env bash
# Stage 2: a projector and a language model learn to read stage 1's embeddings as captions.
# Write a value behind `:-` here, or set it in the environment: batch_size=4 num_gpus=4 bash train_stage2.sh
# What is set here wins over the recipe; any setting as key=value wins over both: bash train_stage2.sh resume=latest
set -euo pipefail

dataset_path=${dataset_path:-}               # recipe: ./data/Image_384_VL_Captions; parquet, .tar shards or a folder
diffusion_model_path=${diffusion_model_path:-}   # recipe: ./outputs/Stage1_Training/final; the finished stage 1
run_name=${run_name:-}                       # recipe: Stage2_Training
lr=${lr:-}                                   # recipe: 1e-5
num_gpus=${num_gpus:-}                       # recipe: 8

epochs=${epochs:-}                           # recipe: 2; training ends at epochs or total_steps, whichever is first
total_steps=${total_steps:-}                 # recipe: 10000
batch_size=${batch_size:-}                   # recipe: 8; pairs of one process
save_step=${save_step:-}                     # recipe: 1000
val_dataset_path=${val_dataset_path:-}       # recipe: ./assets
qwen_model=${qwen_model:-}                   # recipe: ./pretrained_checkpoints/Qwen2.5-3B
stable_diffusion_model_path=${stable_diffusion_model_path:-}   # recipe: null; where stage 1 found it
florence2_model_path=${florence2_model_path:-}                 # recipe: null; where stage 1 found it
output_dir=${output_dir:-}                   # recipe: ./outputs/Stage2_Training, from run_name; the model is in its final/
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}     # recipe: null; one of configs/accelerate/
CONFIG=${CONFIG:-}                           # empty: configs/stage2.yaml

source "$(dirname "${BASH_SOURCE[0]}")/scripts/launch.sh"
launch stage2 "dataset_path=$dataset_path" "diffusion_model_path=$diffusion_model_path" "run_name=$run_name" "lr=$lr" \
  "num_gpus=$num_gpus" "epochs=$epochs" "total_steps=$total_steps" "batch_size=$batch_size" "save_step=$save_step" \
  "val_dataset_path=$val_dataset_path" "qwen_model=$qwen_model" \
  "stable_diffusion_model_path=$stable_diffusion_model_path" "florence2_model_path=$florence2_model_path" \
  "output_dir=$output_dir" "accelerate_config=$ACCELERATE_CONFIG" -- "$@"

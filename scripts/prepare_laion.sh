#!/usr/bin/env bash
# The paper's stage-1 images: rows of LAION-2B-en-aesthetic's metadata are selected, and img2dataset fetches them as .tar
# shards. Killed or interrupted, the same command goes on; finished shards are not fetched again.
# Write a value behind `:-` here, or set it in the environment: METADATA=laion-meta bash scripts/prepare_laion.sh
set -euo pipefail

METADATA=${METADATA:-}                   # folder of the metadata's .parquet files, one file, or a pattern
OUTPUT=${OUTPUT:-./data/laion}           # gets metadata/ (the selected rows) and shards/
PROCESSES=${PROCESSES:-$(nproc)}         # of img2dataset
THREADS=${THREADS:-64}                   # of each process: downloads at once
IMAGE_SIZE=${IMAGE_SIZE:-512}            # short side in pixels; nothing is enlarged. 0 keeps every file as it came
SAMPLES_PER_SHARD=${SAMPLES_PER_SHARD:-10000}
TIMEOUT=${TIMEOUT:-10}                   # seconds without a byte
RETRIES=${RETRIES:-0}                    # further tries of an image

MIN_SIDE=${MIN_SIDE:-512}                # the paper's selection: short side above this,
MIN_ASPECT=${MIN_ASPECT:-0.5}            # width / height from
MAX_ASPECT=${MAX_ASPECT:-2}              # to,
MAX_WATERMARK=${MAX_WATERMARK:-0.5}      # probability of a watermark below
MAX_UNSAFE=${MAX_UNSAFE:-null}           # the paper names no limit for these two
MIN_AESTHETIC=${MIN_AESTHETIC:-null}
IMG2DATASET_ENV=${IMG2DATASET_ENV:-}     # its own environment, as it wants other versions; empty: .venv-img2dataset

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
source "$here/scripts/environment.sh"
IMG2DATASET_ENV=${IMG2DATASET_ENV:-$here/.venv-img2dataset}
python=${PYTHON:-python}

fail() { echo "error: $1" >&2; exit 2; }

[[ -n $METADATA ]] || fail "METADATA is empty: METADATA=FOLDER bash scripts/prepare_laion.sh"
mkdir -p "$OUTPUT" 2>/dev/null && [[ -d $OUTPUT && -w $OUTPUT ]] \
  || fail "OUTPUT=$OUTPUT cannot be written: give a folder on a disk that can be"
exec 9>"$OUTPUT/.lock"
flock -n 9 || fail "OUTPUT=$OUTPUT is in use by another call: wait for it, or give another folder"

ensure_img2dataset() {
  local wanted='img2dataset==1.47.0'
  [[ ! -f $IMG2DATASET_ENV/installed || $(cat "$IMG2DATASET_ENV/installed") != "$wanted" ]] || return 0
  step "environment of img2dataset in $IMG2DATASET_ENV"
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3 python; do
    # It imports imghdr, which Python 3.13 has no more.
    if [[ -n $candidate ]] \
      && "$candidate" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null; then
      "$candidate" -m venv --clear "$IMG2DATASET_ENV"
      "$IMG2DATASET_ENV/bin/python" -m pip install -q "$wanted"
      echo "$wanted" > "$IMG2DATASET_ENV/installed"
      return 0
    fi
  done
  fail "img2dataset needs Python 3.9 to 3.12: name one with PYTHON=/path/to/python3.11"
}

settings=("min_side=$MIN_SIDE" "min_aspect=$MIN_ASPECT" "max_aspect=$MAX_ASPECT" "max_watermark=$MAX_WATERMARK"
  "max_unsafe=$MAX_UNSAFE" "min_aesthetic=$MIN_AESTHETIC" "samples_per_shard=$SAMPLES_PER_SHARD"
  "image_size=$IMAGE_SIZE")
step "rows of $METADATA"
"$python" -m scripts.prepare_laion select "metadata=$METADATA" "out=$OUTPUT" "${settings[@]}"
ensure_img2dataset

step "images into $OUTPUT/shards"
longest=$("$python" -c "print(max(1 / $MIN_ASPECT, $MAX_ASPECT))")
size=(resize_mode=keep_ratio resize_only_if_bigger=true skip_reencode=true "image_size=$IMAGE_SIZE"
  "min_image_size=$((MIN_SIDE + 1))" "max_aspect_ratio=$longest")
[[ $IMAGE_SIZE != 0 ]] || size=(disable_all_reencoding=true)
# Decoding of more pixels than vlv reads would take gigabytes.
export OPENCV_IO_MAX_IMAGE_PIXELS=178956970 NO_ALBUMENTATIONS_UPDATE=1
"$IMG2DATASET_ENV/bin/python" "$here/scripts/laion_download.py" \
  "url_list=$OUTPUT/metadata" input_format=parquet url_col=URL caption_col=TEXT output_format=webdataset \
  "output_folder=$OUTPUT/shards" incremental_mode=incremental "processes_count=$PROCESSES" "thread_count=$THREADS" \
  "number_sample_per_shard=$SAMPLES_PER_SHARD" "timeout=$TIMEOUT" "retries=$RETRIES" extract_exif=false compute_hash=null \
  "${size[@]}"

step "what is there"
"$python" -m scripts.prepare_laion summary "metadata=$METADATA" "out=$OUTPUT" "${settings[@]}"

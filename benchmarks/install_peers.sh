#!/usr/bin/env bash
# Makes build/peers/.venv for benchmarks/compare_peers.py: autoprune with NNI and NVIDIA ModelOpt, whose pins and weight the
# project itself must not carry. The stamp is written last: without it everything is made anew.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/peers/.venv
[[ -e $venv/.installed ]] && exit
[[ -x .venv/bin/python ]] || {
    echo "autoprune: first run: make install" >&2
    exit 1
}
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
# NNI reads a network's dependencies with TensorBoard's graph reader; ModelOpt imports requests and huggingface_hub
# without asking for them. Without the constraints pip would take a torch that draws in gigabytes of CUDA.
"${pip[@]}" -c constraints.txt -e '.[nni,tensorboard]' nvidia-modelopt==0.47.0 requests huggingface_hub
# ModelOpt counts FLOPs with it; its own dependencies name torchvision, which nothing here uses.
"${pip[@]}" --no-deps torchprofile==0.0.4
touch "$venv/.installed"

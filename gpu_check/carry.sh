#!/usr/bin/env bash
# Download what the GPU check needs on a machine without network that has PyTorch, transformers and
# h5py: the packages of the environments, for that machine's version of Python.
#
#   gpu_check/carry.sh [PYTHON_VERSION]      default: 3.12
#
# Copy the working tree with exp/wheels to the machine, and there:
#
#   python3 -m pip install --no-index --no-deps --target exp/site exp/wheels/*.whl
#   PYTHONPATH=exp/site python3 -m gpu_check
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# gymnasium imports farama-notifications
mapfile -t packages < <(grep -E '^(mujoco|gymnasium)==' requirements.txt; echo farama-notifications)
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --dest exp/wheels \
    --python-version "${1:-3.12}" --implementation cp --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "${packages[@]}"
ls -sh exp/wheels

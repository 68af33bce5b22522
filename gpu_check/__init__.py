"""Checks that training works on a GPU, and times it: `python -m gpu_check`, see docs/GPU.md."""

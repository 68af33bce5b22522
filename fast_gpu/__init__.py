"""CUDA graphs: whole updates, and steps of acting, launched at once."""

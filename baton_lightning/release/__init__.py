"""Conversion of released checkpoints to parents, and export of runs to folders of safetensors."""

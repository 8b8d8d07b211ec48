"""Skydeck: slurm."""

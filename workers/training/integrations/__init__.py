"""Adapters between Skydeck's training job and concrete trainers."""

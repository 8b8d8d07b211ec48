"""Skydeck: workers/runtime."""

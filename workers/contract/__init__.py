"""Skydeck: workers/contract."""

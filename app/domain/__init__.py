"""Skydeck: app/domain."""

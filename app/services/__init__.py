"""Skydeck: app/services."""

"""Skydeck: app/web."""

"""Skydeck: app."""

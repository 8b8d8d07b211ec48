"""Skydeck: app/api."""

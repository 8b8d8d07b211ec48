"""Skydeck: app/db."""

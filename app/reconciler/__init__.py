"""Skydeck: app/reconciler."""

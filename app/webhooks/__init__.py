"""Skydeck: app/webhooks."""

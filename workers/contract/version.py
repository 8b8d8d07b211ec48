"""Version of everything that crosses the border between control plane and workers."""

CONTRACT_VERSION = 1
"""Checked at registration and on every report; raised when a message changes its meaning."""

"""Trainer-independent rollout core."""

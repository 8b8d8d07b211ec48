"""Agents: who turns a policy's text into actions in a sandbox."""

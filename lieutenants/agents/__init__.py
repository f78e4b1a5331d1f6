"""Agents: a folder for each kind, and what all kinds have in common."""

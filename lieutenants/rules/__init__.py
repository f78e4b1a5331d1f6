"""Lifecycle rules: when something holds of a VM or a lieutenant, something is done about it."""

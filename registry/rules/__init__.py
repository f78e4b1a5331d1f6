"""Lifecycle rules: when a condition holds for a VM, lieutenant or finding, run an action."""

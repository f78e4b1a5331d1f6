"""Pause, resume or destroy a whole subtree: a plan first, then a job that runs its steps."""

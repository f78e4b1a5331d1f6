"""Pause, resume, destroy a VM with everything below it: a plan first, then a job of steps."""

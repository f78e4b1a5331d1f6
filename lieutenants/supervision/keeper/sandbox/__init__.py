"""Isolation by the kernel: `rules.enter` applies it, `probe` finds out what is possible."""

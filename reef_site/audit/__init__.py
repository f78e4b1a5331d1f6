"""Append-only audit log: who did what, and from where."""

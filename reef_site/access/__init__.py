"""Permissions of callers in words: `/whoami`, `/can`, pages of nodes, and operator tokens."""

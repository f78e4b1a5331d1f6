"""The groups of client commands."""

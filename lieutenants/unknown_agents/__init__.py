"""Agents that run on this host without an open process row: find, list, take up or end them."""

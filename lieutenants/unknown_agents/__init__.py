"""Agents that run here and that no open process row leads to: found, listed, taken up or ended."""

"""Speaks the Agent Client Protocol with an agent, and the JSON lines of keepers with reef.

Standalone (standard library, Python 3.8 or newer). The keeper starts it like any agent, and it
starts the agent. See `main` for its options, and `commands` for what it understands.
"""

"""Supervision of agent processes on this host: launch, follow, watch, end."""

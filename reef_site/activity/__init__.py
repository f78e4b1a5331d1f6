"""The event log for agents, people and other programs: API, page and subscribers."""

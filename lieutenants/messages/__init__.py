"""Messages to lieutenants: sending, delivery states, outcomes, and rewinding to before one."""

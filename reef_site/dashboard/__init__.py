"""Pages that combine all apps: the overview, and the fleet as tree, map and history."""

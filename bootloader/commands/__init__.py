"""Shell commands that operators run on machines of the fleet; their output is kept."""

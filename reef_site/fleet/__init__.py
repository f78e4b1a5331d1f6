"""Pages of the fleet, which combine tree, registry and lieutenants."""

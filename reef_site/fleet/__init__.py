"""The fleet's pages: what the tree, the registry and the lieutenants say, put together."""

"""Data folders with their identities, the hosts they are on, and taking over lieutenants."""

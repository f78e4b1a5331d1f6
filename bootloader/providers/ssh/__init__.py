"""Hosts of the operator as a provider, and SSH connections to the machines of all providers."""

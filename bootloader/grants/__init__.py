"""Grants: how many VMs and lieutenants a node may create with its own token."""

"""Grants: how many VMs a node may provision with its own token."""

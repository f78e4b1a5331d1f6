"""Provisioning of VMs: requests, steps, the runner that takes them, and cleanup."""

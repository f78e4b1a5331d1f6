"""Joining the fleet: join tokens, downloads for VMs, and reports of boot scripts."""

"""Keepers on VMs: one connection and one relay a VM, shared by all lieutenants there."""

"""The palette: one search over pages, lieutenants, VMs and actions."""

"""Names that the bootloader knows: organs and capabilities that a VM can have."""

from __future__ import annotations

# Service modules. Those of this reef first; the others are known to VMs in the field.
ORGANS = (
    *("lieutenant", "registry", "vm-tree", "vers-config", "bootloader"),
    *("store", "cron", "docs", "installer"),
)
CAPABILITIES = ("vers-vm", "vers-vm-copy", "vers-swarm", "ssh")

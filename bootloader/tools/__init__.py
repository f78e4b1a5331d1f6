"""Tools for agents: boot scripts, VMs that reef provisions, and checkpoints of VMs."""

from __future__ import annotations

from bootloader.tools import boot, checkpoints, provisioning

TOOLS = (*boot.TOOLS, *provisioning.TOOLS, *checkpoints.TOOLS)

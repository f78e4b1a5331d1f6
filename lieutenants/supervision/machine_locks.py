"""The lock of a provider's VM, for what must not happen to it at the same time.

Whoever begins something on the VM (a new lieutenant, a start) and whoever is about to pause or
delete it lock its row for a moment, look what the other has begun, and note what they begin.
"""

from __future__ import annotations

from bootloader.models import Machine


def lock(vm_id: str) -> None:
    """Lock the VM until the end of the current transaction. Without a VM id, do nothing."""
    if vm_id:
        list(Machine.objects.select_for_update().active().filter(vm_id=vm_id).values_list("pk"))

"""Programs that run on a VM from the unpacked wheel, before anything is installed there."""

"""What runs on a VM from the unpacked wheel, before anything is installed there."""

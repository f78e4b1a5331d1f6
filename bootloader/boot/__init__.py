"""The boot of a VM: profiles, boot plans, and the scripts and cloud-init made from them."""

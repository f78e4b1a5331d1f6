"""An emulator of the VM platform on this machine, with the platform's API and real VMs.

It is a separate program. It imports nothing else of reef, and reef knows it only by its address.
"""

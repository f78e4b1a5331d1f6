"""An emulator of the VM platform on this machine, with the platform's API and real VMs.

It is a separate program that imports nothing else of reef. Reef knows only its address.
"""

"""A VM platform on this machine: it speaks the platform's API, and its VMs are real.

It stands alone: nothing of reef is imported here, and reef knows it only by its address.
"""

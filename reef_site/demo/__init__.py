"""The parts of `up --demo`: a model that needs no key, and VMs of an emulated platform."""

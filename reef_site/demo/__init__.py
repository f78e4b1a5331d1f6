"""What `up --demo` brings: a model that needs no key, and VMs of an emulated platform."""

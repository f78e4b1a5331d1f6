"""Finding agents that run and that nobody follows: on this host, and on all other machines."""

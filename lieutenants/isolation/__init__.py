"""Isolation of this host's agents from reef and from each other."""

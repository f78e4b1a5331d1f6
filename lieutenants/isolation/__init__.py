"""How agents of this host are kept away from reef and from each other."""

"""Who did what from where: an append-only log."""

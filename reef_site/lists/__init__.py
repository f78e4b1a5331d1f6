"""Lists of all apps: saved filters, and actions on many rows with a plan before."""

"""The list of lieutenants: columns, filters, and actions on many."""

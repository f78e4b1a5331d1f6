"""Sessions: journal records of one process, applied to rows."""

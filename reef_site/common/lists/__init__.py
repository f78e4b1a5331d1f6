"""Lists on pages: columns that sort, pages, and actions on many rows."""

"""Changes in a lieutenant's folder as git sees them: API, page, and line comments."""

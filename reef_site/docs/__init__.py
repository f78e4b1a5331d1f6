"""The project's documentation as Markdown files, and the pages below `/docs/` that show them."""

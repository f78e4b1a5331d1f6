"""State of the components of reef, and `GET /health`."""

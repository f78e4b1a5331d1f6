"""The API as a whole: its authentication, errors and OpenAPI schema."""

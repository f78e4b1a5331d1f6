"""The API as a whole: its router, authentication, and errors."""

"""Database backend: Django's SQLite with a queue for the write lock."""

"""A database backend: Django's SQLite with a turnstile before the lock of writers."""

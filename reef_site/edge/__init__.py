"""The public port: HTTP, credentials, event streams, the fast path, and the proxy to Django."""

"""Subscribers of the event log: use cases, deliveries, API."""

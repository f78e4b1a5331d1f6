"""Notifications of people: which events, by which channel, and when."""

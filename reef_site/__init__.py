"""Wiring of the project: settings, routes, the processes. No rule about a fleet lives here."""

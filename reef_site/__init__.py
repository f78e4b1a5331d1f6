"""Wiring of the project: settings, routes, processes. Rules about the fleet live in the apps."""

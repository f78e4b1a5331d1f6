"""The standalone program beside each agent. Its files run by path, without the rest of reef."""

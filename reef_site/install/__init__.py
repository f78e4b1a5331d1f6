"""Installation in a checkout: the environment `.venv`, and the tools of the tests."""

"""The machines that providers have, compared with tree and registry."""

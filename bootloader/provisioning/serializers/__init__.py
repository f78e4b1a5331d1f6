"""Requests and responses of the provisioning API, in the wire format."""

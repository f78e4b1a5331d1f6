"""The agent pi: its program, configuration, RPC protocol and session files."""

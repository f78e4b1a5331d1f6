"""Questions of agents to people: their rows, who decides them, and how the answers return."""

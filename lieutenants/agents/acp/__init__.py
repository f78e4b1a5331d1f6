"""The dialect `acp`: agents that speak the Agent Client Protocol, behind a bridge of reef's."""

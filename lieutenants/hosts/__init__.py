"""Where lieutenants live: data folders with their identities, the hosts they are on, adoption."""

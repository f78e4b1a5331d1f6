"""The fleet agent: joins a VM to its fleet, sends heartbeats, and signs off when it stops.

These modules are built into a single file (standard library, Python 3.8 or newer), which can be
copied to any machine:

    python3 fleet_agent.py join   --home DIR   exchange the join token for the VM's own token
    python3 fleet_agent.py run    --home DIR   join if necessary, then send heartbeats until stopped
    python3 fleet_agent.py start  --home DIR   the same, detached, with DIR/log/fleet-agent.log
    python3 fleet_agent.py stop   --home DIR   have a running one sign off and exit
    python3 fleet_agent.py status --home DIR [--wait SECONDS]   0 if the last heartbeat succeeded
    python3 fleet_agent.py renew  --home DIR   replace the VM's token with a new one
    python3 fleet_agent.py unit   --home DIR   print a systemd unit

DIR/identity.json, of mode 0600, is a flat object of strings with VERS_INFRA_URL, VERS_VM_ID,
VERS_AGENT_NAME, REEF_ROLE, REEF_ADDRESS, REEF_ORGANS, REEF_CAPABILITIES, REEF_PARENT_VM_ID, and
VERS_AUTH_TOKEN, the VM's own token. Before joining it has the join token as REEF_JOIN_TOKEN
instead, or DIR/join-token, of mode 0600, contains it. DIR/identity.env holds the same values as
lines of shell. Secrets are never passed as arguments or logged.
"""

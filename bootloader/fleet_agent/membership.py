"""Joining the fleet, renewing the token, and signing off."""

from __future__ import annotations

import socket
from typing import Callable, Dict
from urllib.parse import quote

from .errors import VERSION, AgentError, Json, RootUnavailable
from .home import Home
from .root import required, root_client

SIGN_OFF_SECONDS = 4.0


def address_of(identity: Dict[str, str], known: Json) -> str:
    """Return the host name under which others find this VM."""
    return identity.get("REEF_ADDRESS") or str(known.get("address") or "") or socket.gethostname()


def join(home: Home, log: Callable[[str], None]) -> Dict[str, str]:
    """Exchange the join token; return the identity with the VM's own token. Raise AgentError."""
    identity = home.identity()
    token = home.join_token(identity)
    if not token:
        text = "there is no token: {} has none, and there is no join token"
        raise AgentError(text.format(home.identity_file))
    body = {"hostname": socket.gethostname(), "agentVersion": VERSION, "nonce": home.nonce()}
    for field, name in (("vmId", "VERS_VM_ID"), ("address", "REEF_ADDRESS")):
        if identity.get(name):
            body[field] = identity[name]
    response = root_client(identity, token).request_json("POST", "/bootloader/join", body)
    if not isinstance(response.get("token"), str) or not response.get("vmId"):
        raise RootUnavailable("the roof's answer to the join token has no token in it")
    more = {"VERS_VM_ID": str(response["vmId"])}
    for field, name in (("name", "VERS_AGENT_NAME"), ("role", "REEF_ROLE")):
        if response.get(field) and not identity.get(name):
            more[name] = str(response[field])
    home.keep_token(response["token"], more)
    log("joined the fleet as {}".format(response["vmId"]))
    return home.identity()


def renew(home: Home) -> str:
    """Replace the VM's token. The old one stays valid until the new one is stored and confirmed."""
    identity = home.identity()
    required(identity, "VERS_AUTH_TOKEN")
    new_token = root_client(identity).request_json("POST", "/bootloader/token", {}).get("token")
    if not isinstance(new_token, str) or not new_token:
        raise RootUnavailable("the roof's answer has no token in it")
    home.keep_token(new_token)
    root_client(home.identity()).request_json("POST", "/bootloader/token/confirm", {})
    return "the token was changed; programs that hold the old one must read it again"


def sign_off(home: Home) -> str:
    """Tell the root that this VM stops; return the outcome for the log."""
    try:
        identity = home.identity()
        required(identity, "VERS_AUTH_TOKEN")
        path = "/registry/vms/{}/heartbeat".format(quote(required(identity, "VERS_VM_ID"), safe=""))
        root_client(identity).request_json("POST", path, {"status": "stopped"}, SIGN_OFF_SECONDS)
    except AgentError as error:
        return "stops without a good-bye: {}".format(error)
    return "said good-bye"

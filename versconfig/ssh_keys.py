"""Pure validation of SSH keys. Error texts never repeat any part of a key."""

from __future__ import annotations

import base64
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

# As in `authorized_keys`: optional options before it, a comment after it.
_PUBLIC = re.compile(
    r"(?:^|\s)(?P<kind>(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+)\s+(?P<blob>[A-Za-z0-9+/]+={0,2})(?:\s|$)"
)


def public_problem(text: str) -> str:
    """Return what is wrong with lines of public keys; empty lines and comments are skipped."""
    lines = (line.strip() for line in text.splitlines())
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#") and not _is_public(line):
            return f"must have an OpenSSH public key in each line; line {number} has none"
    return ""


def private_problem(text: str) -> str:
    """Return what is wrong with a private key; empty if it can be loaded."""
    if _is_public(text.strip()):
        return "is a public key; give the private one that belongs to it"
    data = f"{text.strip()}\n".replace("\r\n", "\n").encode()
    is_ours = b"BEGIN OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if is_ours else serialization.load_pem_private_key
    try:
        load(data, None)
    except TypeError:
        return "is a private key with a passphrase; reef needs one without"
    except (ValueError, UnsupportedAlgorithm):
        return "must be a private key of SSH, as ssh-keygen writes it, without a passphrase"
    return ""


def _is_public(line: str) -> bool:
    found = _PUBLIC.search(line)
    if found is None:
        return False
    try:
        blob = base64.b64decode(found["blob"], validate=True)
    except ValueError:
        return False
    kind = found["kind"].encode()
    return blob.startswith(len(kind).to_bytes(4, "big") + kind) and len(blob) > len(kind) + 8

"""Private keys, parsed."""

from __future__ import annotations

import io
import re

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bootloader.exceptions import ShellRefused

# Matches the beginning of a public key.
_PUBLIC_KEY = re.compile(
    r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ AAAA|-----BEGIN (RSA )?PUBLIC KEY|---- BEGIN SSH2 PUBLIC KEY"
)


def read_key(text: str) -> paramiko.PKey:
    """Parse a private key (OpenSSH or PEM, no passphrase). Raise ShellRefused."""
    if _PUBLIC_KEY.match(text.strip()):
        raise ShellRefused("This is a public key; give the private one that belongs to it")
    # The parsers' own messages are never shown: they may quote the key.
    try:
        text = text.replace("\r\n", "\n").strip() + "\n"
        raw = text.encode()
        loaded: object
        try:
            loaded = serialization.load_ssh_private_key(raw, None)
        except ValueError:
            loaded = serialization.load_pem_private_key(raw, None)
        kind: type[paramiko.PKey] | None = None
        if isinstance(loaded, ed25519.Ed25519PrivateKey):
            kind = paramiko.Ed25519Key
        elif isinstance(loaded, rsa.RSAPrivateKey):
            kind = paramiko.RSAKey
        elif isinstance(loaded, ec.EllipticCurvePrivateKey):
            kind = paramiko.ECDSAKey
        if kind is not None:
            return kind.from_private_key(io.StringIO(text))
    except (ValueError, TypeError, UnsupportedAlgorithm, paramiko.SSHException):
        pass
    raise ShellRefused("The private SSH key cannot be read: damaged, or with a passphrase")

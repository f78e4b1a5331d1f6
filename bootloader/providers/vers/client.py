"""The platform's operations that reef uses, typed.

Key and address are resolved for each call. All methods raise subclasses of `ProviderError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from bootloader import exceptions as errors
from bootloader.providers.vers import parsing
from bootloader.providers.vers.http import Account, PlatformRequest, account, send
from bootloader.providers.vers.responses import json_of
from vmtree.models import Node

T = TypeVar("T")
_PAGE = 100
# Without 500: retrying a request about a VM that cannot answer now would only be slow.
_WITHOUT_500 = frozenset({429, 502, 503, 504})


class Client:
    """A client with the account configured for this node, or for the fleet."""

    def __init__(self, node: Node | None = None) -> None:
        self._node = node

    def account(self) -> Account:
        """Return the account as configured now."""
        return account(self._node)

    # -- reads -----------------------------------------------------------------------------------

    def vms(self) -> list[parsing.VM]:
        """Return all VMs of the organisation. VMs of a silent node may briefly be missing."""
        return self._read(
            PlatformRequest("GET", "/vms"),
            lambda given: [parsing.VM.read(row) for row in parsing.rows_of(given)],
        )

    def status(self, vm_id: str) -> parsing.VM:
        """Return one VM. Raise NoSuchMachine."""
        return self._read(PlatformRequest("GET", f"/vm/{known_id(vm_id)}/status"), parsing.VM.read)

    def metadata(self, vm_id: str) -> parsing.Metadata:
        """Return a VM's origin. Raise NoSuchMachine."""
        return self._read(
            PlatformRequest("GET", f"/vm/{known_id(vm_id)}/metadata"), parsing.Metadata.read
        )

    def ssh_key(self, vm_id: str) -> parsing.SshKey:
        """Return a VM's key. The platform answers 500 while the VM is paused."""
        path = f"/vm/{known_id(vm_id)}/ssh_key"
        return self._read(PlatformRequest("GET", path, again=_WITHOUT_500), parsing.SshKey.read)

    def commits(self) -> Iterator[parsing.Commit]:
        """Yield all commits of the organisation, fetched page by page."""
        offset = 0
        while True:
            query = {"limit": _PAGE, "offset": offset}
            page = self._read(
                PlatformRequest("GET", "/commits", query, missing=errors.ProviderRefused),
                lambda given: [
                    parsing.Commit.read(row) for row in parsing.rows_of(given, "commits")
                ],
            )
            yield from page
            offset += len(page)
            if len(page) < _PAGE:
                return

    def commit_of(self, word: str) -> str:
        """Resolve `repo:tag` or an old-style tag to a commit id; ids are returned unchanged."""
        if is_id(word):
            return known_id(word)
        repo, separator, tag = word.partition(":")
        path = f"/repositories/{_part(repo)}/tags/{_part(tag)}"
        path = path if separator else f"/commit_tags/{_part(repo)}"
        request = PlatformRequest("GET", path, missing=errors.ProviderRefused)
        return self._read(request, lambda given: parsing.Commit.read(given).commit_id)

    def validate(self) -> parsing.Verdict:
        """Check the key. Raise ProviderUnavailable."""
        try:
            return self._read(PlatformRequest("POST", "/keys/validate"), _verdict)
        except errors.BadProviderKey as error:
            return parsing.Verdict(False, str(error))
        except errors.ProviderRefused as error:
            if error.http_status not in (404, 405):
                raise
        # Older platforms: a key that can list is good.
        return parsing.Verdict(True, f"good: it sees {len(self.vms())} VMs")

    # -- writes ----------------------------------------------------------------------------------

    def new_root(self, config: Mapping[str, object]) -> str:
        """Create a VM from an image with this `vm_config`; return its id."""
        body = {"vm_config": {name: value for name, value in config.items() if value is not None}}
        query = {"wait_boot": "false"}
        return self._new("/vm/new_root", query, body, errors.ProviderRefused)[0]

    def from_commit(self, word: str) -> str:
        """Create a VM from a commit (id, `repo:tag` or old-style tag); return its id."""
        name = "commit_id" if is_id(word) else "ref" if ":" in word else "tag_name"
        return self._new("/vm/from_commit", {}, {name: word}, errors.ProviderRefused)[0]

    def branch(self, vm_id: str, count: int = 1) -> list[str]:
        """Copy a running VM, which stops for a moment; return the ids. Raise PartiallyCreated."""
        path = f"/vm/branch/by_vm/{known_id(vm_id)}"
        made = self._new(path, {"count": count}, None, errors.NoSuchMachine)
        if len(made) != count:
            text = f"Vers made {len(made)} copies in place of {count}"
            raise errors.PartiallyCreated(text, tuple(made))
        return made

    def commit(self, vm_id: str, name: str) -> str:
        """Save a VM and return the commit's id.

        It runs afterwards, even if it was paused before.
        """
        request = PlatformRequest(
            *("POST", f"/vm/{known_id(vm_id)}/commit"), body={"name": name}, write=True, slow=True
        )
        return self._write(request, lambda given: parsing.Commit.read(given).commit_id)

    def set_state(self, vm_id: str, word: str) -> None:
        """Request the state "Paused", "Sleeping" or "Running".

        The response only acknowledges it.
        """
        path = f"/vm/{known_id(vm_id)}/state"
        send(
            PlatformRequest("PATCH", path, body={"state": word}, write=True, slow=True),
            self.account(),
        )

    def label(self, vm_id: str, labels: Mapping[str, str]) -> None:
        """Set the VM's labels."""
        path = f"/vm/{known_id(vm_id)}/label"
        send(
            PlatformRequest("PATCH", path, body={"labels": dict(labels)}, write=True),
            self.account(),
        )

    def delete(self, vm_id: str) -> None:
        """Delete a VM. Raise ProviderRefused with status 403 if it is missing or not ours."""
        path = f"/vm/{known_id(vm_id)}"
        send(PlatformRequest("DELETE", path, write=True, slow=True), self.account())

    # -- requests --------------------------------------------------------------------------------

    def _new(
        self,
        path: str,
        query: Mapping[str, str | int],
        body: Mapping[str, Any] | None,
        missing: type[errors.ProviderRefused],
    ) -> list[str]:
        request = PlatformRequest("POST", path, query, body, write=True, slow=True, missing=missing)
        return self._write(request, parsing.new_ids)

    def _read(self, request: PlatformRequest, reader: Callable[[Any], T]) -> T:
        response = send(request, self.account())
        try:
            return reader(json_of(response))
        except ValueError as error:
            raise errors.ProviderError(_unreadable(response, error)) from None

    def _write(self, request: PlatformRequest, reader: Callable[[Any], T]) -> T:
        """Perform a change.

        An unreadable response raises OutcomeUnknown, since the change was made.
        """
        response = send(request, self.account())
        try:
            return reader(json_of(response))
        except ValueError as error:
            raise errors.OutcomeUnknown(_unreadable(response, error)) from None


def is_id(word: str) -> bool:
    """Return whether this is an id of the platform."""
    try:
        parsing.parse_id(word)
    except ValueError:
        return False
    return True


def known_id(vm_id: str) -> str:
    """Return the id in canonical form, safe for paths.

    Raise NoSuchMachine if it is not a valid id.
    """
    try:
        return parsing.parse_id(vm_id)
    except ValueError:
        raise errors.NoSuchMachine(f"'{vm_id[:80]}' is no id of a VM at Vers") from None


def _part(text: str) -> str:
    return quote(text, safe="")


def _verdict(given: Any) -> parsing.Verdict:
    if not isinstance(given, dict) or not isinstance(given.get("valid"), bool):
        raise ValueError("'valid' is missing")
    return parsing.Verdict(given["valid"], str(given.get("message") or "")[:200])


def _unreadable(response: httpx.Response, error: ValueError) -> str:
    number = response.headers.get("x-request-id", "")[:64]
    return f"Vers gave an answer that cannot be read: {error} (request {number or 'unknown'})"

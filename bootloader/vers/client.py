"""The operations of the platform that reef uses, with their types.

Key and address are asked anew for each call. All raise subclasses of `ProviderError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from bootloader import exceptions as errors
from bootloader.vers import wire
from bootloader.vers.answers import json_of
from bootloader.vers.asking import Account, Question, account, ask
from vmtree.models import Node

T = TypeVar("T")
_PAGE = 100
# Asked again after these, a question about a VM that cannot answer now would only be slow.
_WITHOUT_500 = frozenset({429, 502, 503, 504})


class Client:
    """Asks with what is configured for this node, or for the fleet."""

    def __init__(self, node: Node | None = None) -> None:
        self._node = node

    def account(self) -> Account:
        """Whom we ask at this moment, and as whom."""
        return account(self._node)

    # -- reads -------------------------------------------------------------------------------------

    def vms(self) -> list[wire.VM]:
        """All VMs of the organisation; one whose node is silent may lack for a moment."""
        return self._read(
            Question("GET", "/vms"),
            lambda given: [wire.VM.read(row) for row in wire.rows_of(given)],
        )

    def status(self, vm_id: str) -> wire.VM:
        """One VM. Raises NoSuchMachine."""
        return self._read(Question("GET", f"/vm/{known_id(vm_id)}/status"), wire.VM.read)

    def metadata(self, vm_id: str) -> wire.Metadata:
        """Where one VM comes from. Raises NoSuchMachine."""
        return self._read(Question("GET", f"/vm/{known_id(vm_id)}/metadata"), wire.Metadata.read)

    def ssh_key(self, vm_id: str) -> wire.SshKey:
        """The key of one VM; an error of status 500 while it is paused."""
        path = f"/vm/{known_id(vm_id)}/ssh_key"
        return self._read(Question("GET", path, again=_WITHOUT_500), wire.SshKey.read)

    def commits(self) -> Iterator[wire.Commit]:
        """All commits of the organisation, page by page."""
        offset = 0
        while True:
            query = {"limit": _PAGE, "offset": offset}
            page = self._read(
                Question("GET", "/commits", query, missing=errors.ProviderRefused),
                lambda given: [wire.Commit.read(row) for row in wire.rows_of(given, "commits")],
            )
            yield from page
            offset += len(page)
            if len(page) < _PAGE:
                return

    def commit_of(self, word: str) -> str:
        """The commit that `repo:tag`, or a tag of the old kind, names now; an id is itself."""
        if is_id(word):
            return known_id(word)
        repo, sign, tag = word.partition(":")
        path = f"/repositories/{_part(repo)}/tags/{_part(tag)}"
        path = path if sign else f"/commit_tags/{_part(repo)}"
        question = Question("GET", path, missing=errors.ProviderRefused)
        return self._read(question, lambda given: wire.Commit.read(given).commit_id)

    def validate(self) -> wire.Verdict:
        """Whether the key is good. Raises ProviderAway."""
        try:
            return self._read(Question("POST", "/keys/validate"), _verdict)
        except errors.BadProviderKey as error:
            return wire.Verdict(False, str(error))
        except errors.ProviderRefused as error:
            if error.answered not in (404, 405):
                raise
        # An older platform: whoever may list has a good key.
        return wire.Verdict(True, f"good: it sees {len(self.vms())} VMs")

    # -- writes ------------------------------------------------------------------------------------

    def new_root(self, config: Mapping[str, object]) -> str:
        """A VM from an image, with what is in `config` (`vm_config` of the platform); its id."""
        body = {"vm_config": {name: value for name, value in config.items() if value is not None}}
        query = {"wait_boot": "false"}
        return self._new("/vm/new_root", query, body, errors.ProviderRefused)[0]

    def from_commit(self, word: str) -> str:
        """A VM from a commit, named by id, `repo:tag` or an old tag; its id."""
        name = "commit_id" if is_id(word) else "ref" if ":" in word else "tag_name"
        return self._new("/vm/from_commit", {}, {name: word}, errors.ProviderRefused)[0]

    def branch(self, vm_id: str, count: int = 1) -> list[str]:
        """Copies of a running VM, which stops for a moment; their ids. Raises PartlyDone."""
        path = f"/vm/branch/by_vm/{known_id(vm_id)}"
        made = self._new(path, {"count": count}, None, errors.NoSuchMachine)
        if len(made) != count:
            text = f"Vers made {len(made)} copies in place of {count}"
            raise errors.PartlyDone(text, tuple(made))
        return made

    def commit(self, vm_id: str, name: str) -> str:
        """Save a VM; it goes on afterwards, even if it was paused before. The commit's id."""
        question = Question(
            *("POST", f"/vm/{known_id(vm_id)}/commit"), body={"name": name}, write=True, slow=True
        )
        return self._write(question, lambda given: wire.Commit.read(given).commit_id)

    def set_state(self, vm_id: str, word: str) -> None:
        """`word` is "Paused", "Sleeping" or "Running"; the answer says nothing but yes."""
        path = f"/vm/{known_id(vm_id)}/state"
        ask(Question("PATCH", path, body={"state": word}, write=True, slow=True), self.account())

    def label(self, vm_id: str, labels: Mapping[str, str]) -> None:
        """Give it these labels."""
        path = f"/vm/{known_id(vm_id)}/label"
        ask(Question("PATCH", path, body={"labels": dict(labels)}, write=True), self.account())

    def delete(self, vm_id: str) -> None:
        """Remove it; one that is not there (or not ours) is a ProviderRefused of status 403."""
        path = f"/vm/{known_id(vm_id)}"
        ask(Question("DELETE", path, write=True, slow=True), self.account())

    # -- how ---------------------------------------------------------------------------------------

    def _new(
        self,
        path: str,
        query: Mapping[str, str | int],
        body: Mapping[str, Any] | None,
        missing: type[errors.ProviderRefused],
    ) -> list[str]:
        question = Question("POST", path, query, body, write=True, slow=True, missing=missing)
        return self._write(question, wire.new_ids)

    def _read(self, question: Question, reader: Callable[[Any], T]) -> T:
        response = ask(question, self.account())
        try:
            return reader(json_of(response))
        except ValueError as error:
            raise errors.ProviderError(_unreadable(response, error)) from None

    def _write(self, question: Question, reader: Callable[[Any], T]) -> T:
        """It was done: an answer that cannot be read leaves open only what came of it."""
        response = ask(question, self.account())
        try:
            return reader(json_of(response))
        except ValueError as error:
            raise errors.OutcomeUnknown(_unreadable(response, error)) from None


def is_id(word: str) -> bool:
    """Whether this is an id of the platform."""
    try:
        wire.an_id(word)
    except ValueError:
        return False
    return True


def known_id(vm_id: str) -> str:
    """The id as it may stand in a path. Raises NoSuchMachine: no machine has another one."""
    try:
        return wire.an_id(vm_id)
    except ValueError:
        raise errors.NoSuchMachine(f"'{vm_id[:80]}' is no id of a VM at Vers") from None


def _part(text: str) -> str:
    return quote(text, safe="")


def _verdict(given: Any) -> wire.Verdict:
    if not isinstance(given, dict) or not isinstance(given.get("valid"), bool):
        raise ValueError("'valid' is missing")
    return wire.Verdict(given["valid"], str(given.get("message") or "")[:200])


def _unreadable(response: httpx.Response, error: ValueError) -> str:
    number = response.headers.get("x-request-id", "")[:64]
    return f"Vers gave an answer that cannot be read: {error} (request {number or 'unknown'})"

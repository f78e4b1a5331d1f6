"""What the API says of the tree, and what it takes from a request. Keys as agents know them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rest_framework.request import Request

from vmtree import aliases, dates, ids
from vmtree.dna import dna_of, empty, is_text
from vmtree.exceptions import BadInput
from vmtree.models import Category, Node, NodeToken, Revision
from vmtree.services import UNSAID, Change, NewNode

Json = dict[str, Any]
LONGEST = 255
MOST_AT_ONCE = 10_000


def node_json(node: Node) -> Json:
    """A node; the same as the pieces of `rows`, for one that is at hand."""
    said = {
        "vmId": node.vm_id,
        "name": node.name,
        "parentVmId": node.parent_vm_id,
        "category": node.category,
        "reefConfig": node.reef_config,
        "createdAt": node.created_at,
        "updatedAt": node.updated_at,
    }
    if node.removed_at:
        said["removedAt"] = node.removed_at
    if node.destroyed_at:
        said |= {"destroyed": True, "destroyedAt": node.destroyed_at}
    return said


def revision_json(revision: Revision) -> Json:
    """A change, with what the node was after it."""
    return {
        "id": revision.pk,
        "at": revision.at,
        "actor": revision.actor,
        "what": revision.what,
        "name": revision.name,
        "category": revision.category,
        "parentVmId": revision.parent_vm_id,
        "reefConfig": revision.reef_config,
    }


def token_json(token: NodeToken) -> Json:
    """All that is known of a token."""
    return {"madeAt": token.made_at, "madeBy": token.made_by, "revokedAt": token.revoked_at}


# -- what requests say ---------------------------------------------------------------------------


def body_of(request: Request) -> Json:
    """The request's JSON object; another JSON value has none of the fields."""
    return request.data if isinstance(request.data, dict) else {}


def new_node_of(data: Json) -> NewNode:
    """A VM to be put into the tree. Raises BadInput with the contract's texts."""
    name = data.get("name")
    if name is None or (isinstance(name, str) and not name.strip()):
        raise BadInput("name is required", "name")
    config = data.get("reefConfig")
    if "id" in data and "vmId" not in data:
        raise BadInput("id: is called vmId here", "id")
    vm_id = _vm_id(data.get("vmId"), "vmId")
    ids.check_new(vm_id, "vmId")
    return NewNode(
        name=_text(name, "name"),
        category=_category(data.get("category", "undefined")),
        vm_id=vm_id,
        parent_vm_id=aliases.resolve(_vm_id(data.get("parentVmId"), "parentVmId")),
        dna=empty() if config is None else dna_of(config),
    )


def change_of(data: Json) -> Change:
    """What a PATCH wants. Keys that it does not have stay as they are. Raises BadInput."""
    config = data.get("reefConfig")
    return Change(
        name=_text(data["name"], "name") if "name" in data else UNSAID,
        category=_category(data["category"]) if "category" in data else UNSAID,
        dna=(None if config is None else dna_of(config)) if "reefConfig" in data else UNSAID,
        parent_vm_id=(
            aliases.resolve(_vm_id(data["parentVmId"], "parentVmId")) or None
            if "parentVmId" in data
            else UNSAID
        ),
    )


def query_flag(request: Request, name: str) -> bool:
    """Whether the query says true; absent or empty is false. Raises BadInput."""
    given = request.query_params.get(name, "")
    if given not in ("", "true", "false", "1", "0"):
        raise BadInput(f"{name}: must be true or false", name)
    return given in ("true", "1")


def is_dry_run(request: Request) -> bool:
    """Whether body or query say `dryRun`. Raises BadInput.

    Where they differ it is one: what is said in two ways is no leave to begin. `?dryRun` without a
    value says neither.
    """
    said = body_of(request).get("dryRun", False)
    given = set(request.query_params.getlist("dryRun"))
    if not isinstance(said, bool) or not given <= {"true", "false", "1", "0"}:
        raise BadInput("dryRun: must be true or false", "dryRun")
    return said or bool({"true", "1"} & given)


def query_number(request: Request, name: str, *, most: int = 1 << 53) -> int | None:
    """A whole number from the query; None if it is absent or empty. Raises BadInput."""
    given = request.query_params.get(name, "")
    if not given:
        return None
    if not (given.isascii() and given.isdigit()) or len(given) > 18 or int(given) > most:
        raise BadInput(f"{name}: must be a whole number from 0 to {most}", name)
    return int(given)


def query_limit(request: Request, *, most: int, default: int) -> int:
    """How many rows a page has, from 1 on. Raises BadInput."""
    given = request.query_params.get("limit", "")
    if not given:
        return default
    if not (given.isascii() and given.isdigit()) or not 1 <= int(given[:18]) <= most:
        raise BadInput(f"limit: must be a whole number from 1 to {most}", "limit")
    return int(given)


def query_cursor(request: Request, *older_names: str) -> int | None:
    """The `next` of an earlier page, as `?cursor=`. Raises BadInput."""
    names = ("cursor", *older_names)
    return next((found for name in names if (found := query_number(request, name))), None)


def query_moment(request: Request, name: str) -> datetime | None:
    """A time from the query; None if it is absent or empty. Raises BadInput."""
    given = request.query_params.get(name, "")
    return dates.moment_of(given, name) if given else None


def _category(value: object) -> str:
    if not isinstance(value, str) or value not in Category.values:
        said = "null" if value is None else value
        raise BadInput(f"invalid category: {said}", "category")
    return value


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{field}: must be a string", field)
    text = value.strip()
    if not is_text(text):
        raise BadInput(f"{field}: has characters that are no text", field)
    if len(text) > LONGEST:
        raise BadInput(f"{field}: at most {LONGEST} characters", field)
    return text


def _vm_id(value: object, field: str) -> str:
    """An id; a number is taken as its digits, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = _text(value, field)
    if any(not sign.isprintable() for sign in text) or text.endswith("/"):
        raise BadInput(f"{field}: must be printable and not end with a slash", field)
    return text

"""Tools for agents: look at the tree, search it, and add nodes."""

from __future__ import annotations

from typing import Any

import orjson

from reef_site.common.api.fields import Choice, Text, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.clock import format_timestamp
from reef_site.common.paging import take_page_by_key
from reef_site.common.tools import Tool, ToolResult, json_text
from vmtree import json_rows, search, services
from vmtree.fields import AnyVM, Dna, SearchTerms, VMAlias
from vmtree.models import Category, Node, Revision, Trait
from vmtree.permissions import Action
from vmtree.placement import below_caller
from vmtree.serializers import MAX_DEPTH, NewNodeBody, node_json, revision_json
from vmtree.services import NewNode

Json = dict[str, Any]
MAX_FOUND = 1000


class ViewArguments(Body):
    vmId = AnyVM(default="", help_text="VM at the top of the view; absent for the whole tree.")
    depth = WholeNumber(most=MAX_DEPTH, required=False, help_text="Only this many levels below.")


class RegisterArguments(Body):
    name = Text(blank=False, help_text="Name of the VM.")
    category = Choice(Category.values)
    parentVmId = Text(required=False, help_text="Its parent; absent for yourself or a root.")
    vmId = Text(required=False, help_text="Its id; absent for a new one.")
    reefConfig = Dna(required=False, help_text="Its organs and capabilities.")


class FindArguments(Body):
    type = Choice(Trait.Kind.values)
    name = Text(strip=False, blank=False, help_text="Exact name of the organ or capability.")


class HistoryArguments(Body):
    vmId = VMAlias(blank=False, help_text="VM id; a removed VM has a history, too.")
    limit = WholeNumber(least=1, most=MAX_FOUND, default=20)


class SearchArguments(Body):
    q = SearchTerms(
        default="",
        help_text="Text in name or id, and terms such as organ:store, category:lieutenant, "
        "under:<vmId>, parent:<vmId>.",
    )
    limit = WholeNumber(least=1, most=MAX_FOUND, default=50)


def view(_caller: object, arguments: Json) -> ToolResult:
    root, depth = arguments["vmId"], arguments.get("depth")
    nodes = Node.objects.active()
    top = nodes.filter(vm_id=root).first() if root else None
    if root and top is None:
        pieces = []
    elif top is None and depth is None:
        pieces = json_rows.pieces_of(nodes)
    else:
        pieces = json_rows.descendant_pieces(top, depth=depth)
    tree = orjson.loads(json_rows.json_tree(pieces, top.pk if top else None))
    found = {"tree": tree, "count": nodes.count()}
    return ToolResult(json_text(found), {"tree": found})


def register(caller: object, arguments: Json) -> ToolResult:
    body = NewNodeBody.parse_data(below_caller(caller, arguments))
    facts = node_json(services.create(NewNode(**body), by=caller))
    text = f'Registered "{facts["name"]}" ({facts["category"]}) in tree. ID: {facts["vmId"]}'
    return ToolResult(text, {"vm": facts})


def find(_caller: object, arguments: Json) -> ToolResult:
    kind, name = arguments["type"], arguments["name"]
    rows = Node.objects.active().with_trait(Trait.Kind(kind), name)
    return _found(rows, f'with {kind} "{name}"')


def find_text(_caller: object, arguments: Json) -> ToolResult:
    query, limit = arguments["q"], arguments["limit"]
    return _found(search.narrow(Node.objects.active(), query)[:limit], f"that match {query}")


def _found(rows: search.Nodes, which: str) -> ToolResult:
    vms = orjson.loads(json_rows.json_list(json_rows.pieces_of(rows)))
    result = {"vms": vms, "count": len(vms)}
    if not vms:
        return ToolResult(f"No VMs found {which}.", {"result": result})
    return ToolResult(f"{len(vms)} VM(s) {which}:\n{json_text(vms)}", {"result": result})


def history(_caller: object, arguments: Json) -> ToolResult:
    node = services.find(arguments["vmId"], removed=True)
    rows = Revision.objects.filter(node=node)
    page, following = take_page_by_key(rows, arguments["limit"], None, newest_first=True)
    found = [revision_json(each) for each in page]
    lines = [
        f"{format_timestamp(each['at'])} {each['what']} by {each['actor']}: {each['name']} "
        f"({each['category']}) below {each['parentVmId'] or 'no parent'}"
        for each in found
    ]
    text = f"History of {node.vm_id}, newest first:\n" + "\n".join(lines)
    return ToolResult(text, {"history": found, "next": following})


TOOLS = (
    Tool(
        "vm_tree_view",
        "Show the tree of VMs and lieutenants as JSON: who made whom, and what each is made of.",
        ViewArguments,
        view,
        read_only=True,
    ),
    Tool(
        "vm_tree_register",
        "Add a VM to the tree, below you or below one of your descendants.",
        RegisterArguments,
        register,
        action=Action.WRITE,
    ),
    Tool(
        "vm_tree_find",
        "Find VMs with an organ or a capability.",
        FindArguments,
        find,
        read_only=True,
    ),
    Tool(
        "vm_tree_search",
        "Search the tree by text and terms.",
        SearchArguments,
        find_text,
        read_only=True,
    ),
    Tool(
        "vm_tree_history",
        "Show the changes of a VM in the tree: when, by whom, and what it was afterwards.",
        HistoryArguments,
        history,
        read_only=True,
    ),
)

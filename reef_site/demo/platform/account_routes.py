"""Routes of the account: keys, variables, domains, and information about the platform."""

from __future__ import annotations

import re

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.machines import IMAGES
from reef_site.demo.platform.responses import ApiError, Response, empty_response, json_response
from reef_site.demo.platform.store import Domain, new_id, now

routes = Routes()
LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
DOMAIN = re.compile(rf"(?=.{{1,253}}$)({LABEL}\.)+(?!\d+$){LABEL}")
ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
# Names below these are never resolved by DNS, so the emulator accepts them without a check.
RESERVED_DOMAINS = (
    "example.com",
    "example.net",
    "example.org",
    "test",
    "example",
    "invalid",
    "localhost",
)


@routes.on("GET", "/health", "health", "")
async def health(call: Call) -> Response:
    """Return the counters of the proxy."""
    here = {"connections_total": 0, "connections_active": 0, "errors": {}}
    return json_response({"ssh": here, "http": here, "websocket": here})


@routes.on("GET", "/system/version", "version")
async def version(call: Call) -> Response:
    """Identify the server as an emulator."""
    facts = {"executable_name": "orchestrator", "workspace_version": "0.0.0-emulator"}
    return json_response({**facts, "git_hash": "emulator"})


@routes.on("POST", "/keys/validate", "validate_key")
async def validate_key(call: Call) -> Response:
    """Confirm the key; a caller with a bad key is rejected before this."""
    return json_response({"valid": True, "message": "API key is valid"})


@routes.on("GET", "/whoami", "whoami")
async def whoami(call: Call) -> Response:
    """Return the caller's account."""
    user = {"id": call.account.owner_id, "email": "emulator@localhost", "user_name": "emulator"}
    key = {
        "id": call.account.owner_id,
        "label": "emulator",
        "created_at": now(),
        "expires_at": None,
        "max_memory_mib": None,
        "max_vcpus": None,
    }
    org = {"id": call.account.org, "name": call.account.org}
    return json_response({"user": user, "org": org, "api_key": key})


@routes.on("GET", "/images", "images")
async def images(call: Call) -> Response:
    """List bootable images."""
    limit, offset = call.number("limit", 50, 1, 100), call.number("offset", 0, 0, 1 << 53)
    known = [
        {
            "base_image_id": name,
            "image_name": name,
            "owner_id": call.account.owner_id,
            "is_public": True,
            "source_type": "docker",
            "size_mib": 1024,
            "description": "this machine's own programs",
            "created_at": now(),
        }
        for name in sorted(IMAGES)
    ]
    facts = {"images": known[offset : offset + limit], "total": len(known)}
    return json_response({**facts, "limit": limit, "offset": offset})


# -- variables for /etc/environment of new VMs


@routes.on("GET", "/env_vars", "env_vars")
async def env_vars(call: Call) -> Response:
    """List all variables."""
    return json_response({"vars": call.machines.store.env_vars.get(call.account.org, {})})


@routes.on("PUT", "/env_vars", "set_env_vars")
async def set_env_vars(call: Call) -> Response:
    """Add variables, or replace all of them if `replace` is set."""
    facts = call.json(vars="texts", replace="bool?")
    for key, value in facts["vars"].items():
        if not ENV_KEY.fullmatch(key):
            raise ApiError(400, f"invalid environment variable name: {key}")
        if len(value) > 8192:
            raise ApiError(400, f"environment variable too long: {key}")
    kept = {} if facts.get("replace") else call.machines.store.env_vars.get(call.account.org, {})
    call.machines.store.env_vars[call.account.org] = {**kept, **facts["vars"]}
    call.machines.store.save()
    return json_response({"vars": call.machines.store.env_vars[call.account.org]})


@routes.on("DELETE", "/env_vars/{key}", "delete_env_var")
async def delete_env_var(call: Call) -> Response:
    """Delete one variable."""
    known = call.machines.store.env_vars.get(call.account.org, {})
    if call.path_params["key"] not in known:
        raise ApiError(404, "Environment variable not found")
    del known[call.path_params["key"]]
    call.machines.store.save()
    return empty_response(204)


# -- domains of the customer's


@routes.on("GET", "/domains", "domains")
async def domains(call: Call) -> Response:
    """List the domains of this key."""
    wanted, every = call.query.get("vm_id"), call.machines.store.domains.values()
    mine = [each for each in every if each.owner_id == call.account.owner_id]
    return json_response([domain_json(each) for each in mine if wanted in (None, each.vm_id)])


def domain_json(domain: Domain) -> dict[str, str]:
    """Return the JSON of a domain."""
    facts = {"domain_id": domain.domain_id, "vm_id": domain.vm_id}
    return {**facts, "domain": domain.domain, "created_at": domain.created_at}


@routes.on("POST", "/domains", "make_domain")
async def make_domain(call: Call) -> Response:
    """Add a domain for a VM. Only reserved names are accepted."""
    facts, store = call.json(vm_id="uuid", domain="str"), call.machines.store
    name = facts["domain"].lower()
    if not DOMAIN.fullmatch(name):
        raise ApiError(400, f"invalid domain: {name}")
    vm = call.machines.vm(facts["vm_id"], call.account, text="vm not found")
    if any(each.domain == name for each in store.domains.values()):
        raise ApiError(409, "domain already exists")
    if not any(name == each or name.endswith(f".{each}") for each in RESERVED_DOMAINS):
        raise ApiError(422, f"DNS for {name} is not ready yet")
    made = Domain(new_id(), call.account.owner_id, vm.vm_id, name)
    store.domains[made.domain_id] = made
    return json_response(domain_json(made), 201)


def own_domain(call: Call) -> Domain:
    """Return the domain named in the path."""
    found = call.machines.store.domains.get(call.path_params["domain_id"])
    if found is None:
        raise ApiError(404, "not found")
    if found.owner_id != call.account.owner_id:
        raise ApiError(403, "forbidden")
    return found


@routes.on("GET", "/domains/{domain_id}", "domain")
async def domain(call: Call) -> Response:
    """Return one domain of the account."""
    return json_response(domain_json(own_domain(call)))


@routes.on("DELETE", "/domains/{domain_id}", "delete_domain")
async def delete_domain(call: Call) -> Response:
    """The name goes, the VM stays."""
    gone = own_domain(call)
    del call.machines.store.domains[gone.domain_id]
    return json_response({"domain_id": gone.domain_id})

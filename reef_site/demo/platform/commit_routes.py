"""Routes of commits, tags and repositories."""

from __future__ import annotations

import re
from typing import Any

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import ApiError, Response, empty_response, json_response
from reef_site.demo.platform.store import Commit, Repository, Tag, new_id, now

routes = Routes()
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def commit_json(commit: Commit) -> dict[str, Any]:
    """Return the JSON of a commit."""
    return {
        "commit_id": commit.commit_id,
        "owner_id": commit.owner_id,
        "name": commit.name,
        "description": commit.description,
        "is_public": commit.is_public,
        "created_at": commit.created_at,
        "parent_vm_id": commit.parent_vm_id,
        "grandparent_commit_id": commit.grandparent_commit_id,
    }


def commits_page(call: Call, commits: list[Commit]) -> Response:
    """Return a page of the commits, newest first."""
    limit, offset = call.number("limit", 50, 1, 100), call.number("offset", 0, 0, 1 << 53)
    ordered = sorted(commits, key=lambda each: each.created_at, reverse=True)
    return json_response(
        {
            "commits": [commit_json(each) for each in ordered[offset : offset + limit]],
            "total": len(commits),
            "limit": limit,
            "offset": offset,
        }
    )


@routes.on("GET", "/commits", "commits")
async def commits(call: Call) -> Response:
    """List the organisation's commits."""
    every = call.machines.store.commits.values()
    return commits_page(call, [each for each in every if each.org == call.account.org])


@routes.on("GET", "/commits/public", "public_commits")
async def public_commits(call: Call) -> Response:
    """List commits that anybody may restore."""
    return commits_page(
        call, [each for each in call.machines.store.commits.values() if each.is_public]
    )


def own_commit(call: Call) -> Commit:
    """Return the commit named in the path if it belongs to the organisation."""
    commit = call.machines.commit_of(call.path_params["commit_id"], call.account)
    if commit.org != call.account.org:
        raise ApiError(403, "forbidden")
    return commit


@routes.on("PATCH", "/commits/{commit_id}", "update_commit")
async def update_commit(call: Call) -> Response:
    """Change visibility, name and description."""
    facts = call.json(is_public="bool", name="str?", description="str?")
    commit = own_commit(call)
    commit.is_public = facts["is_public"]
    commit.name = facts.get("name") or commit.name
    commit.description = facts.get("description", commit.description)
    call.machines.store.save()
    return json_response(commit_json(commit))


@routes.on("DELETE", "/commits/{commit_id}", "delete_commit")
async def delete_commit(call: Call) -> Response:
    """Delete a commit. Only the key that made it may do so, and only without VMs made from it."""
    commit, store = own_commit(call), call.machines.store
    if commit.owner_id != call.account.owner_id:
        raise ApiError(403, "forbidden")
    living = [vm for vm in store.vms.values() if vm.parent_commit_id == commit.commit_id]
    if living:
        raise ApiError(409, f"commit still has {len(living)} active VM(s)")
    del store.commits[commit.commit_id]
    store.tags = {key: tag for key, tag in store.tags.items() if tag.commit_id != commit.commit_id}
    store.save()
    call.machines.remove_unused_layers()
    return empty_response(204)


@routes.on("GET", "/vm/commits/{commit_id}/parents", "parents")
async def parents(call: Call) -> Response:
    """List the commit and its ancestors, oldest last."""
    commit: Commit | None = call.machines.commit_of(call.path_params["commit_id"], call.account)
    line = []
    while commit is not None:
        facts = commit_json(commit)
        line.append({"id": facts.pop("commit_id"), **facts})
        commit = call.machines.store.commits.get(commit.grandparent_commit_id or "")
    return json_response(line)


# -- tags; flat tags belong to the repository without a name


def tag_json(tag: Tag) -> dict[str, Any]:
    """Return the JSON of a tag."""
    facts = {
        "tag_id": tag.tag_id,
        "tag_name": tag.tag_name,
        "commit_id": tag.commit_id,
        "description": tag.description,
        "created_at": tag.created_at,
        "updated_at": tag.updated_at,
    }
    return {**facts, "reference": f"{tag.repo}:{tag.tag_name}"} if tag.repo else facts


def tags_json(call: Call, repo: str, org: str | None = None) -> list[dict[str, Any]]:
    """Return all tags of a repository as JSON."""
    owner = call.account.org if org is None else org
    every = call.machines.store.tags.values()
    return [tag_json(tag) for tag in every if (tag.org, tag.repo) == (owner, repo)]


def find_repository(call: Call) -> Repository:
    """Return the repository named in the path."""
    found = call.machines.store.repositories.get((call.account.org, call.path_params["repo_name"]))
    if found is None:
        raise ApiError(404, "repository not found")
    return found


def find_tag(call: Call, org: str | None = None) -> Tag:
    """Return the tag named in the path."""
    owner = call.account.org if org is None else org
    key = (owner, call.path_params.get("repo_name", ""), call.path_params["tag_name"])
    found = call.machines.store.tags.get(key)
    if found is None:
        raise ApiError(404, "tag not found")
    return found


def create_tag(call: Call, repo: str) -> Tag:
    """Create a tag from the body."""
    facts = call.json(tag_name="str", commit_id="uuid", description="str?")
    name, store = facts["tag_name"], call.machines.store
    if not NAME.fullmatch(name):
        raise ApiError(400, "invalid tag name: use 1-64 letters, digits, '-', '_' or '.'")
    call.machines.commit_of(facts["commit_id"], call.account)
    key = (call.account.org, repo, name)
    if key in store.tags:
        raise ApiError(409, "tag already exists")
    tag = Tag(new_id(), call.account.org, repo, name, facts["commit_id"], facts.get("description"))
    store.tags[key] = tag
    store.save()
    return tag


@routes.on("GET", "/commit_tags", "tags")
async def tags(call: Call) -> Response:
    """List the flat tags."""
    return json_response({"tags": tags_json(call, "")})


@routes.on("POST", "/commit_tags", "make_tag")
async def make_tag(call: Call) -> Response:
    """Create a flat tag."""
    tag = create_tag(call, "")
    facts = {"tag_id": tag.tag_id, "tag_name": tag.tag_name, "commit_id": tag.commit_id}
    return json_response(facts, 201)


@routes.on("GET", "/commit_tags/{tag_name}", "tag")
@routes.on("GET", "/repositories/{repo_name}/tags/{tag_name}", "repo_tag")
async def one_tag(call: Call) -> Response:
    """Return one tag."""
    if "repo_name" in call.path_params:
        find_repository(call)
    return json_response(tag_json(find_tag(call)))


@routes.on("PATCH", "/commit_tags/{tag_name}", "move_tag")
@routes.on("PATCH", "/repositories/{repo_name}/tags/{tag_name}", "move_repo_tag")
async def move_tag(call: Call) -> Response:
    """Set the commit or the description of a tag."""
    facts = call.json(commit_id="uuid?", description="str?")
    tag = find_tag(call)
    if not facts.keys() & {"commit_id", "description"}:
        raise ApiError(400, "nothing to update")
    if facts.get("commit_id"):
        tag.commit_id = call.machines.commit_of(facts["commit_id"], call.account).commit_id
    tag.description = facts.get("description", tag.description)
    tag.updated_at = now()
    call.machines.store.save()
    return empty_response(204)


@routes.on("DELETE", "/commit_tags/{tag_name}", "delete_tag")
@routes.on("DELETE", "/repositories/{repo_name}/tags/{tag_name}", "delete_repo_tag")
async def delete_tag(call: Call) -> Response:
    """Delete a tag; its commit stays."""
    tag = find_tag(call)
    del call.machines.store.tags[tag.org, tag.repo, tag.tag_name]
    call.machines.store.save()
    return empty_response(204)


# -- repositories


def repository_json(repo: Repository) -> dict[str, Any]:
    """Return the JSON of a repository for its owner."""
    return {
        "repo_id": repo.repo_id,
        "name": repo.name,
        "description": repo.description,
        "is_public": repo.is_public,
        "created_at": repo.created_at,
    }


@routes.on("GET", "/repositories", "repositories")
async def repositories(call: Call) -> Response:
    """List the organisation's repositories."""
    every = call.machines.store.repositories.values()
    mine = [repository_json(each) for each in every if each.org == call.account.org]
    return json_response({"repositories": mine})


@routes.on("POST", "/repositories", "make_repository")
async def make_repository(call: Call) -> Response:
    """Create a repository."""
    facts, store = call.json(name="str", description="str?"), call.machines.store
    if not NAME.fullmatch(facts["name"]):
        raise ApiError(400, "invalid repository name: use 1-64 letters, digits, '-', '_' or '.'")
    key = (call.account.org, facts["name"])
    if key in store.repositories:
        raise ApiError(409, "repository already exists")
    made = Repository(new_id(), *key, facts.get("description"))
    store.repositories[key] = made
    store.save()
    return json_response({"repo_id": made.repo_id, "name": made.name}, 201)


@routes.on("GET", "/repositories/{repo_name}", "repository")
async def one_repository(call: Call) -> Response:
    """Return one repository."""
    return json_response(repository_json(find_repository(call)))


@routes.on("DELETE", "/repositories/{repo_name}", "delete_repository")
async def delete_repository(call: Call) -> Response:
    """Delete a repository with its tags; the commits stay."""
    gone, store = find_repository(call), call.machines.store
    del store.repositories[gone.org, gone.name]
    place = (gone.org, gone.name)
    store.tags = {key: tag for key, tag in store.tags.items() if (tag.org, tag.repo) != place}
    store.save()
    return empty_response(204)


@routes.on("PATCH", "/repositories/{repo_name}/visibility", "visibility")
async def visibility(call: Call) -> Response:
    """Make a repository public or private."""
    find_repository(call).is_public = call.json(is_public="bool")["is_public"]
    call.machines.store.save()
    return empty_response(204)


@routes.on("GET", "/repositories/{repo_name}/tags", "repo_tags")
async def repo_tags(call: Call) -> Response:
    """List the tags of a repository."""
    repo = find_repository(call)
    return json_response({"repository": repo.name, "tags": tags_json(call, repo.name)})


@routes.on("POST", "/repositories/{repo_name}/tags", "make_repo_tag")
async def make_repo_tag(call: Call) -> Response:
    """Create a tag in a repository."""
    tag = create_tag(call, find_repository(call).name)
    reference = f"{tag.repo}:{tag.tag_name}"
    facts = {"tag_id": tag.tag_id, "reference": reference, "commit_id": tag.commit_id}
    return json_response(facts, 201)


# -- public repositories


def public_repository_json(repo: Repository) -> dict[str, Any]:
    """Return the JSON of a repository for others."""
    facts = repository_json(repo)
    facts.pop("is_public")
    return {**facts, "org_name": repo.org, "full_name": f"{repo.org}/{repo.name}"}


def find_public_repository(call: Call) -> Repository:
    """Return the public repository named in the path."""
    key = (call.path_params["org_name"], call.path_params["repo_name"])
    found = call.machines.store.repositories.get(key)
    if found is None or not found.is_public:
        raise ApiError(404, "repository not found")
    return found


@routes.on("GET", "/public/repositories", "public_repositories")
async def public_repositories(call: Call) -> Response:
    """List all public repositories."""
    every = call.machines.store.repositories.values()
    return json_response(
        {"repositories": [public_repository_json(each) for each in every if each.is_public]}
    )


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}", "public_repository")
async def public_repository(call: Call) -> Response:
    """Return one public repository."""
    return json_response(public_repository_json(find_public_repository(call)))


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}/tags", "public_tags")
async def public_tags(call: Call) -> Response:
    """List the tags of a public repository."""
    repo = find_public_repository(call)
    return json_response({"repository": repo.name, "tags": tags_json(call, repo.name, repo.org)})


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}/tags/{tag_name}", "public_tag")
async def public_tag(call: Call) -> Response:
    """Return a tag of a public repository."""
    return json_response(tag_json(find_tag(call, find_public_repository(call).org)))

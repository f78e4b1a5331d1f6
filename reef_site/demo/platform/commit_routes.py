"""Routes of commits, and of the two kinds of names for them."""

from __future__ import annotations

import re
from typing import Any

from reef_site.demo.platform.http_server import Call, Routes
from reef_site.demo.platform.responses import Answer, Refusal, empty, json_answer
from reef_site.demo.platform.store import Commit, Repository, Tag, new_id, now

routes = Routes()
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def shown(commit: Commit) -> dict[str, Any]:
    """A commit as lists tell it."""
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


def page(call: Call, commits: list[Commit]) -> Answer:
    """Some of them, newest first."""
    limit, offset = call.number("limit", 50, 1, 100), call.number("offset", 0, 0, 1 << 53)
    ordered = sorted(commits, key=lambda each: each.created_at, reverse=True)
    return json_answer(
        {
            "commits": [shown(each) for each in ordered[offset : offset + limit]],
            "total": len(commits),
            "limit": limit,
            "offset": offset,
        }
    )


@routes.on("GET", "/commits", "commits")
async def commits(call: Call) -> Answer:
    """List the organisation's commits."""
    every = call.machines.store.commits.values()
    return page(call, [each for each in every if each.org == call.who.org])


@routes.on("GET", "/commits/public", "public_commits")
async def public_commits(call: Call) -> Answer:
    """List commits that anybody may restore."""
    return page(call, [each for each in call.machines.store.commits.values() if each.is_public])


def own(call: Call) -> Commit:
    """A commit of the organisation."""
    commit = call.machines.commit_of(call.words["commit_id"], call.who)
    if commit.org != call.who.org:
        raise Refusal(403, "forbidden")
    return commit


@routes.on("PATCH", "/commits/{commit_id}", "update_commit")
async def update_commit(call: Call) -> Answer:
    """Public or not, name, description."""
    facts = call.json(is_public="bool", name="str?", description="str?")
    commit = own(call)
    commit.is_public = facts["is_public"]
    commit.name = facts.get("name") or commit.name
    commit.description = facts.get("description", commit.description)
    call.machines.store.save()
    return json_answer(shown(commit))


@routes.on("DELETE", "/commits/{commit_id}", "delete_commit")
async def delete_commit(call: Call) -> Answer:
    """Only by the key that made it, and not while VMs made from it live."""
    commit, store = own(call), call.machines.store
    if commit.owner_id != call.who.owner_id:
        raise Refusal(403, "forbidden")
    living = [vm for vm in store.vms.values() if vm.parent_commit_id == commit.commit_id]
    if living:
        raise Refusal(409, f"commit still has {len(living)} active VM(s)")
    del store.commits[commit.commit_id]
    store.tags = {key: tag for key, tag in store.tags.items() if tag.commit_id != commit.commit_id}
    store.save()
    call.machines.sweep()
    return empty(204)


@routes.on("GET", "/vm/commits/{commit_id}/parents", "parents")
async def parents(call: Call) -> Answer:
    """The commit itself first, the oldest last."""
    commit: Commit | None = call.machines.commit_of(call.words["commit_id"], call.who)
    line = []
    while commit is not None:
        facts = shown(commit)
        line.append({"id": facts.pop("commit_id"), **facts})
        commit = call.machines.store.commits.get(commit.grandparent_commit_id or "")
    return json_answer(line)


# -- tags; the flat ones are those of a repository without a name


def tag_facts(tag: Tag) -> dict[str, Any]:
    """A tag as it is told."""
    facts = {
        "tag_id": tag.tag_id,
        "tag_name": tag.tag_name,
        "commit_id": tag.commit_id,
        "description": tag.description,
        "created_at": tag.created_at,
        "updated_at": tag.updated_at,
    }
    return {**facts, "reference": f"{tag.repo}:{tag.tag_name}"} if tag.repo else facts


def tags_of(call: Call, repo: str, org: str | None = None) -> list[dict[str, Any]]:
    """All tags of a repository."""
    owner = call.who.org if org is None else org
    every = call.machines.store.tags.values()
    return [tag_facts(tag) for tag in every if (tag.org, tag.repo) == (owner, repo)]


def repository(call: Call) -> Repository:
    """Return the repository named in the path."""
    found = call.machines.store.repositories.get((call.who.org, call.words["repo_name"]))
    if found is None:
        raise Refusal(404, "repository not found")
    return found


def the_tag(call: Call, org: str | None = None) -> Tag:
    """Return the tag named in the path."""
    owner = call.who.org if org is None else org
    key = (owner, call.words.get("repo_name", ""), call.words["tag_name"])
    found = call.machines.store.tags.get(key)
    if found is None:
        raise Refusal(404, "tag not found")
    return found


def new_tag(call: Call, repo: str) -> Tag:
    """Make one of the body's facts."""
    facts = call.json(tag_name="str", commit_id="uuid", description="str?")
    name, store = facts["tag_name"], call.machines.store
    if not NAME.fullmatch(name):
        raise Refusal(400, "invalid tag name: use 1-64 letters, digits, '-', '_' or '.'")
    call.machines.commit_of(facts["commit_id"], call.who)
    key = (call.who.org, repo, name)
    if key in store.tags:
        raise Refusal(409, "tag already exists")
    tag = Tag(new_id(), call.who.org, repo, name, facts["commit_id"], facts.get("description"))
    store.tags[key] = tag
    store.save()
    return tag


@routes.on("GET", "/commit_tags", "tags")
async def tags(call: Call) -> Answer:
    """The flat tags."""
    return json_answer({"tags": tags_of(call, "")})


@routes.on("POST", "/commit_tags", "make_tag")
async def make_tag(call: Call) -> Answer:
    """A flat tag."""
    tag = new_tag(call, "")
    facts = {"tag_id": tag.tag_id, "tag_name": tag.tag_name, "commit_id": tag.commit_id}
    return json_answer(facts, 201)


@routes.on("GET", "/commit_tags/{tag_name}", "tag")
@routes.on("GET", "/repositories/{repo_name}/tags/{tag_name}", "repo_tag")
async def one_tag(call: Call) -> Answer:
    """Return one tag."""
    if "repo_name" in call.words:
        repository(call)
    return json_answer(tag_facts(the_tag(call)))


@routes.on("PATCH", "/commit_tags/{tag_name}", "move_tag")
@routes.on("PATCH", "/repositories/{repo_name}/tags/{tag_name}", "move_repo_tag")
async def move_tag(call: Call) -> Answer:
    """To another commit, or another description."""
    facts = call.json(commit_id="uuid?", description="str?")
    tag = the_tag(call)
    if not facts.keys() & {"commit_id", "description"}:
        raise Refusal(400, "nothing to update")
    if facts.get("commit_id"):
        tag.commit_id = call.machines.commit_of(facts["commit_id"], call.who).commit_id
    tag.description = facts.get("description", tag.description)
    tag.updated_at = now()
    call.machines.store.save()
    return empty(204)


@routes.on("DELETE", "/commit_tags/{tag_name}", "delete_tag")
@routes.on("DELETE", "/repositories/{repo_name}/tags/{tag_name}", "delete_repo_tag")
async def delete_tag(call: Call) -> Answer:
    """The name goes, the commit stays."""
    tag = the_tag(call)
    del call.machines.store.tags[tag.org, tag.repo, tag.tag_name]
    call.machines.store.save()
    return empty(204)


# -- repositories


def repo_facts(repo: Repository) -> dict[str, Any]:
    """A repository as its owner sees it."""
    return {
        "repo_id": repo.repo_id,
        "name": repo.name,
        "description": repo.description,
        "is_public": repo.is_public,
        "created_at": repo.created_at,
    }


@routes.on("GET", "/repositories", "repositories")
async def repositories(call: Call) -> Answer:
    """List the organisation's repositories."""
    every = call.machines.store.repositories.values()
    mine = [repo_facts(each) for each in every if each.org == call.who.org]
    return json_answer({"repositories": mine})


@routes.on("POST", "/repositories", "make_repository")
async def make_repository(call: Call) -> Answer:
    """A new one."""
    facts, store = call.json(name="str", description="str?"), call.machines.store
    if not NAME.fullmatch(facts["name"]):
        raise Refusal(400, "invalid repository name: use 1-64 letters, digits, '-', '_' or '.'")
    key = (call.who.org, facts["name"])
    if key in store.repositories:
        raise Refusal(409, "repository already exists")
    made = Repository(new_id(), *key, facts.get("description"))
    store.repositories[key] = made
    store.save()
    return json_answer({"repo_id": made.repo_id, "name": made.name}, 201)


@routes.on("GET", "/repositories/{repo_name}", "repository")
async def one_repository(call: Call) -> Answer:
    """One."""
    return json_answer(repo_facts(repository(call)))


@routes.on("DELETE", "/repositories/{repo_name}", "delete_repository")
async def delete_repository(call: Call) -> Answer:
    """Delete a repository with its tags; the commits stay."""
    gone, store = repository(call), call.machines.store
    del store.repositories[gone.org, gone.name]
    place = (gone.org, gone.name)
    store.tags = {key: tag for key, tag in store.tags.items() if (tag.org, tag.repo) != place}
    store.save()
    return empty(204)


@routes.on("PATCH", "/repositories/{repo_name}/visibility", "visibility")
async def visibility(call: Call) -> Answer:
    """Make a repository public or private."""
    repository(call).is_public = call.json(is_public="bool")["is_public"]
    call.machines.store.save()
    return empty(204)


@routes.on("GET", "/repositories/{repo_name}/tags", "repo_tags")
async def repo_tags(call: Call) -> Answer:
    """All tags of one."""
    repo = repository(call)
    return json_answer({"repository": repo.name, "tags": tags_of(call, repo.name)})


@routes.on("POST", "/repositories/{repo_name}/tags", "make_repo_tag")
async def make_repo_tag(call: Call) -> Answer:
    """A new tag of one."""
    tag = new_tag(call, repository(call).name)
    reference = f"{tag.repo}:{tag.tag_name}"
    facts = {"tag_id": tag.tag_id, "reference": reference, "commit_id": tag.commit_id}
    return json_answer(facts, 201)


# -- what everybody may see


def public_facts(repo: Repository) -> dict[str, Any]:
    """A repository as others see it."""
    facts = repo_facts(repo)
    facts.pop("is_public")
    return {**facts, "org_name": repo.org, "full_name": f"{repo.org}/{repo.name}"}


def public(call: Call) -> Repository:
    """The public one that the path names."""
    key = (call.words["org_name"], call.words["repo_name"])
    found = call.machines.store.repositories.get(key)
    if found is None or not found.is_public:
        raise Refusal(404, "repository not found")
    return found


@routes.on("GET", "/public/repositories", "public_repositories")
async def public_repositories(call: Call) -> Answer:
    """All public ones."""
    every = call.machines.store.repositories.values()
    return json_answer({"repositories": [public_facts(each) for each in every if each.is_public]})


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}", "public_repository")
async def public_repository(call: Call) -> Answer:
    """One."""
    return json_answer(public_facts(public(call)))


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}/tags", "public_tags")
async def public_tags(call: Call) -> Answer:
    """Its tags."""
    repo = public(call)
    return json_answer({"repository": repo.name, "tags": tags_of(call, repo.name, repo.org)})


@routes.on("GET", "/public/repositories/{org_name}/{repo_name}/tags/{tag_name}", "public_tag")
async def public_tag(call: Call) -> Answer:
    """Return a tag of a public repository."""
    return json_answer(tag_facts(the_tag(call, public(call).org)))

"""Known organs and capabilities, and the built-in profiles."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from bootloader.boot.plan import Profile
from reef_site.common.errors import BadInput
from reef_site.common.text import clip_words
from vmtree import organs

# Service modules: first those of this reef, then those that VMs in the field know.
ORGANS = organs.KNOWN
# Organs that VMs may have in addition: services of older VMs and of infra VMs.
EXTRA_ORGANS = (*ORGANS, "services", "ui", "gitea", "minio")
CAPABILITIES = ("vers-vm", "vers-vm-copy", "vers-swarm", "ssh")

BUILT_IN = MappingProxyType(
    {
        "full": Profile(
            type="full",
            organs=(
                *("store", "cron", "lieutenant", "registry"),
                *("vm-tree", "vers-config", "docs", "installer"),
            ),
            capabilities=("vers-vm", "vers-vm-copy", "vers-swarm", "ssh"),
            install_pi_vers=True,
            description="Full agent VM — all core modules + pi-vers. Can promote to lieutenant.",
            category="agent_vm",
            role="worker",
            agent_role="agent",
            own_reef=True,
            built_in=True,
        ),
        "swarm": Profile(
            type="swarm",
            organs=("store", "cron"),
            capabilities=("vers-vm", "vers-vm-copy", "vers-swarm"),
            install_pi_vers=True,
            description="Swarm worker — minimal reef + pi-vers for fleet task execution.",
            category="swarm_vm",
            role="worker",
            agent_role="swarm",
            built_in=True,
        ),
        "lightweight": Profile(
            type="lightweight",
            organs=("store",),
            capabilities=(),
            install_pi_vers=False,
            description="Lightweight worker — minimal reef, no pi-vers. For short-lived sessions.",
            category="swarm_vm",
            role="worker",
            agent_role="lightweight",
            built_in=True,
        ),
        "infra": Profile(
            type="infra",
            organs=("store", "cron", "docs"),
            capabilities=(),
            install_pi_vers=False,
            description="Infra VM — core reef + specific service. "
            "For Gitea, MinIO, persistent services.",
            category="infra_vm",
            role="infra",
            agent_role="infra",
            own_reef=True,
            built_in=True,
        ),
    }
)


def check(given: Iterable[str], known: tuple[str, ...], field: str) -> None:
    """Raise BadInput, listing the known names, if any given name is unknown."""
    for name in given:
        if name not in known:
            text = f"{field}: '{clip_words(name, 60)}' is not known; these are: {', '.join(known)}"
            raise BadInput(text, field)

"""All configuration keys: type, secrecy, place in files, default.

A key's name is also its environment variable. To add a key, add it to `ALL`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from reef_site.common.errors import BadInput


class Kind(StrEnum):
    """The type of a value."""

    TEXT = "text"
    INTEGER = "whole number"
    BOOLEAN = "yes or no"
    URL = "URL"
    NAMES = "list of words"
    PAIRS = "list of name=value"
    LINES = "lines"
    PATH = "absolute path"


class TakesEffect(StrEnum):
    """Moment at which a change takes effect."""

    AT_ONCE = "at once"
    NEXT_VM = "with the next VM"
    NEXT_START = "with the next start of an agent"
    RESTART = "when reef itself is started again"

    @property
    def label(self) -> str:
        """Return the text for pages; the values of this enum are part of the API."""
        return _ON_PAGES.get(self, self.value)


_ON_PAGES = {
    TakesEffect.NEXT_VM: "for the next VM",
    TakesEffect.NEXT_START: "when the agent next starts",
    TakesEffect.RESTART: "when reef restarts",
}


class Group(StrEnum):
    """Groups of keys on pages."""

    PLATFORM = "Platform and root"
    VM = "New VMs"
    SSH = "SSH"
    AGENT = "Agents"
    MODELS = "Keys of model providers"
    LIMITS = "Limits"


@dataclass(frozen=True)
class Place:
    """A file of `~/.vers` and the path to the value in its JSON."""

    file: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"~/.vers/{self.file}, {'.'.join(self.path)}"


@dataclass(frozen=True)
class Key:
    """One configuration key. `setting` names the Django setting that holds its default."""

    name: str
    group: Group
    about: str
    kind: Kind = Kind.TEXT
    secret: bool = False
    default: str = ""
    setting: str = ""
    places: tuple[Place, ...] = ()
    least: int = 0
    most: int = 1 << 31
    choices: tuple[str, ...] = ()
    form: str = ""
    # The form in words; completes "must be …".
    like: str = ""
    takes: TakesEffect = TakesEffect.NEXT_VM
    # Whether parts of the fleet may have values of their own.
    scoped: bool = True
    # Whether a node token may set it for its node and descendants. Never for keys that decide where
    # secrets are sent or what runs on VMs.
    by_nodes: bool = False
    # The field of the wire contract that shows it.
    wire: str = ""


_CONFIG, _SERVICES = "config.json", "agent-services.json"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?"
_USER = r"[a-z_][a-z0-9_-]{0,31}"
_WORD = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}"
# Keys and tokens of services; they are sent in a header.
_TOKEN, _TOKEN_LIKE = r"[!-~]{1,512}", "printable ASCII without blanks, at most 512 characters"
_VERSION = r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}(-[0-9A-Za-z.-]{1,60})?"

# Agents get these in variables of the same names; the order is that of the page.
_MODEL_PROVIDERS = {
    "ANTHROPIC_API_KEY": "Anthropic",
    "OPENAI_API_KEY": "OpenAI",
    "GEMINI_API_KEY": "Google Gemini",
    "OPENROUTER_API_KEY": "OpenRouter",
    "GROQ_API_KEY": "Groq",
    "MISTRAL_API_KEY": "Mistral",
    "XAI_API_KEY": "xAI",
    "CEREBRAS_API_KEY": "Cerebras",
    "LLM_PROXY_KEY": "the platform's model proxy",
}


def _platform() -> list[Key]:
    group = Group.PLATFORM
    return [
        Key(
            *(
                "VERS_API_KEY",
                group,
                "The key of the account at the VM platform; reef itself uses the fleet's.",
            ),
            secret=True,
            places=(
                Place("keys.json", ("keys", "VERS_API_KEY")),
                Place(_CONFIG, ("versApiKey",)),
                Place(_CONFIG, ("api_key",)),
            ),
            form=_TOKEN,
            like=_TOKEN_LIKE,
            takes=TakesEffect.AT_ONCE,
            wire="apiKey",
        ),
        Key(
            *("VERS_INFRA_URL", group, "Where the fleet finds this reef."),
            kind=Kind.URL,
            setting="INFRA_URL",
            places=(Place(_SERVICES, ("infraUrl",)), Place(_SERVICES, ("url",))),
            wire="infraUrl",
        ),
        _root_token(),
        Key(
            *("VERS_BASE_URL", group, "The VM platform's address, if not its public one."),
            kind=Kind.URL,
            places=(Place(_CONFIG, ("baseUrl",)),),
            takes=TakesEffect.AT_ONCE,
            wire="baseUrl",
        ),
        _reef_key("VERS_AGENT_NAME", "The name under which agents know this reef.", "agentName"),
        _reef_key("VERS_VM_ID", "The id of the VM that this reef runs on.", "vmId"),
        _reef_key("VERS_AGENT_ROLE", "The role of the VM that this reef runs on.", "agentRole"),
    ]


def _root_token() -> Key:
    return Key(
        *(
            "VERS_AUTH_TOKEN",
            Group.PLATFORM,
            "Reef's root token, if its environment sets it. "
            "A value stored here is only for scripts that read it.",
        ),
        secret=True,
        places=(Place(_SERVICES, ("authToken",)), Place(_SERVICES, ("token",))),
        form=_TOKEN,
        like=_TOKEN_LIKE,
        takes=TakesEffect.RESTART,
        scoped=False,
        wire="authToken",
    )


def _reef_key(name: str, about: str, wire: str) -> Key:
    """Build a key that names this reef itself: not for parts of the fleet."""
    return Key(
        name,
        Group.PLATFORM,
        about,
        form=r"[^\x00-\x1f\x7f]{1,255}",
        takes=TakesEffect.RESTART,
        scoped=False,
        wire=wire,
    )


def _vm() -> list[Key]:
    group, number = Group.VM, Kind.INTEGER
    return [
        Key(
            *("REEF_VM_PROVIDER", group, "Who new VMs come from."),
            default="vers",
            form=r"[a-z][a-z0-9_-]{0,39}",
        ),
        Key(
            *("REEF_VM_COMMIT", group, "The golden commit that new VMs are restored from."),
            form=_WORD,
        ),
        Key(
            *("REEF_LIEUTENANT_PROFILE", group, "The profile of VMs for lieutenants without one."),
            form=_WORD,
        ),
        Key(*("REEF_VM_IMAGE", group, "The image that they boot without a commit."), form=_WORD),
        Key(*("REEF_VM_KERNEL", group, "The kernel that they boot with an image."), form=_WORD),
        Key(
            *("REEF_VM_VCPUS", group, "Virtual processors."), number, default="2", least=1, most=256
        ),
        Key(
            *("REEF_VM_MEMORY_MIB", group, "Memory in MiB."),
            number,
            default="4096",
            least=128,
            most=4 << 20,
        ),
        Key(
            *("REEF_VM_DISK_MIB", group, "Disk in MiB."),
            number,
            default="8192",
            least=512,
            most=64 << 20,
        ),
        Key(*("REEF_VM_REGION", group, "The region, at providers that have them."), form=_WORD),
        Key(*("REEF_VM_SIZE", group, "The size class, at providers that have them."), form=_WORD),
        Key(
            *("REEF_VM_LABELS", group, "Labels, at providers that keep them: a=b, c=d."),
            Kind.PAIRS,
        ),
    ]


def _ssh() -> list[Key]:
    group = Group.SSH
    return [
        Key(
            *("REEF_SSH_USER", group, "Who to sign in as on VMs."),
            default="root",
            form=_USER,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_DOMAIN", group, "What follows a VM's id in its host name."),
            default="vm.vers.sh",
            form=_HOST,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_PORT", group, "The port that VMs of the platform are dialled at."),
            Kind.INTEGER,
            default="443",
            least=1,
            most=65535,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_GATEWAY", group, "The host to dial instead of the VM's own name."),
            form=_HOST,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_CA_FILE", group, "A file with the authorities to trust for TLS to VMs."),
            Kind.PATH,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_PRIVATE_KEY", group, "The key to SSH hosts that have none of their own."),
            Kind.LINES,
            secret=True,
            takes=TakesEffect.AT_ONCE,
            scoped=False,
        ),
        Key(
            *("REEF_SSH_AUTHORIZED_KEYS", group, "Public keys of people who may sign in on VMs."),
            Kind.LINES,
            form=r"[^\x00-\x1f\x7f]{1,8000}",
        ),
    ]


def _agent() -> list[Key]:
    group, url = Group.AGENT, Kind.URL
    return [
        Key(
            *("REEF_AGENT_MODEL", group, "The model of agents that name none, as provider/model."),
            setting="DEFAULT_MODEL",
            form=r"(?=.{3,200}\Z)[^\x00-\x20\x7f/-][^\x00-\x20\x7f/]*/[^\x00-\x20\x7f]+",
            like="like provider/model",
            takes=TakesEffect.NEXT_START,
            by_nodes=True,
        ),
        Key(
            *(
                "REEF_AGENT_KIND",
                group,
                "The agent of new lieutenants that name none: pi, or acp: and a preset, such as "
                "acp:claude.",
            ),
            default="pi",
            form=r"[a-z]{1,20}(:[a-z]{1,20})?",
            like="pi, or acp: and the name of a preset",
            takes=TakesEffect.AT_ONCE,
        ),
        Key(
            *("REEF_AGENT_VERSION", group, "Which version of the agent VMs install."),
            default="1.6.0",
            form=_VERSION,
        ),
        Key(*("REEF_NPM_REGISTRY", group, "Where VMs get npm packages."), url),
        Key(*("REEF_PYPI_INDEX", group, "Where VMs get Python packages."), url),
        Key(
            *(
                "REEF_APT_MIRROR",
                group,
                "Where VMs get Debian packages, if not as their image says.",
            ),
            url,
        ),
        Key(
            *("REEF_MODEL_URL", group, "An endpoint like OpenAI's that agents on VMs are to use."),
            url,
        ),
    ]


def _models() -> list[Key]:
    return [
        Key(
            name,
            Group.MODELS,
            f"Agents' key at {provider}.",
            secret=True,
            form=_TOKEN,
            like=_TOKEN_LIKE,
            takes=TakesEffect.NEXT_START,
            by_nodes=True,
        )
        for name, provider in _MODEL_PROVIDERS.items()
    ]


def _limits() -> list[Key]:
    group, number = Group.LIMITS, Kind.INTEGER
    return [
        Key(
            *("REEF_MAX_VMS", group, "How many VMs there may be at all."),
            number,
            default="100",
            most=1_000_000,
            takes=TakesEffect.AT_ONCE,
            scoped=False,
        ),
        Key(
            *("REEF_PROVISION_AT_ONCE", group, "How many VMs are brought up at a time."),
            number,
            default="5",
            least=1,
            most=1000,
            takes=TakesEffect.AT_ONCE,
            scoped=False,
        ),
        Key(
            *("REEF_BOOT_SECONDS", group, "How long one run of the boot script may take."),
            number,
            default="900",
            least=10,
            most=86_400,
        ),
        Key(
            *("REEF_VM_LIEUTENANTS", group, "How many lieutenants there may be on one machine."),
            number,
            default="20",
            least=1,
            most=10_000,
            takes=TakesEffect.AT_ONCE,
        ),
        Key(
            *("REEF_VM_FREE_MIB", group, "The free memory that the start of an agent needs there."),
            number,
            default="128",
            most=1 << 20,
            takes=TakesEffect.NEXT_START,
        ),
    ]


def _waits() -> list[Key]:
    """Build the defaults of what a lieutenant's own settings say."""
    about = {
        "REEF_STALL_SECONDS": ("How long a model may be silent (0 = no limit).", "STALL_SECONDS"),
        "REEF_TOOL_SECONDS": ("How long a tool may run (0 = no limit).", "TOOL_SECONDS"),
        "REEF_DIALOG_SECONDS": (
            "How long an agent's dialog waits for a person (0 = dismiss at once).",
            "DIALOG_SECONDS",
        ),
        "REEF_SIGN_PERIOD_SECONDS": (
            "How often a sign is expected (0 = never).",
            "SIGN_PERIOD_SECONDS",
        ),
        "REEF_SIGN_GRACE_SECONDS": ("How much later a sign may come.", "SIGN_GRACE_SECONDS"),
    }
    numbers = [
        Key(
            *(name, Group.LIMITS, f"New lieutenants: {text[0].lower()}{text[1:]}"),
            Kind.INTEGER,
            setting=setting,
            most=(7 if name == "REEF_STALL_SECONDS" else 30) * 86_400,
            takes=TakesEffect.AT_ONCE,
        )
        for name, (text, setting) in about.items()
    ]
    return [
        *numbers,
        Key(
            *(
                "REEF_LIMIT_ACTION",
                Group.LIMITS,
                "New lieutenants: what happens when a model or a tool reaches its limit.",
            ),
            setting="LIMIT_ACTION",
            choices=("abort", "note"),
            takes=TakesEffect.AT_ONCE,
        ),
    ]


ALL: dict[str, Key] = {
    key.name: key
    for keys in (_platform(), _vm(), _ssh(), _agent(), _models(), _limits(), _waits())
    for key in keys
}
WIRE = [key for key in ALL.values() if key.wire]
MODEL_KEYS = list(_MODEL_PROVIDERS)


def get(name: str) -> Key:
    """Return the key with this name. Raises BadInput."""
    key = ALL.get(name)
    if key is None:
        raise BadInput(f"Unknown config key: {name}", "key")
    return key


def keys_of_group(group: Group) -> list[Key]:
    """Return the keys of one group, in their order."""
    return [key for key in ALL.values() if key.group == group]


def matches(pattern: str, text: str) -> bool:
    """Return whether the whole text matches the pattern; an empty pattern matches any text."""
    return not pattern or re.fullmatch(pattern, text) is not None

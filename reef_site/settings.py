"""All settings, read once from the environment. `docs/operations.md` lists them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import dj_database_url

from reef_site import env
from reef_site.common.ids import new_ulid
from vmtree import organs

BASE_DIR = Path(__file__).resolve().parent.parent
# Templates and lock files: in a checkout beside the packages, else in a folder of the package.
INSTALLED = (BASE_DIR / "reef_site" / "resources").is_dir()
RESOURCES_DIR = BASE_DIR / "reef_site" / "resources" if INSTALLED else BASE_DIR
VERSION = "0.1.0"


def _private_folder(folder: Path) -> Path:
    """Create a folder with mode 0700, or set the mode of an empty one; return it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A folder with other files, such as a home folder given by mistake, keeps its mode.
        is_ours = (folder / "secret-key").exists() or not any(folder.iterdir())
        stat = folder.stat()
        # Mode 0711 stays: agents that are system users need to pass through.
        if is_ours and stat.st_uid == os.getuid() and stat.st_mode & 0o077 != 0o011:
            folder.chmod(0o700)
    except OSError as error:
        raise env.SettingError("REEF_DATA_DIR", f"cannot make {folder}: {error.strerror}") from None
    return folder


def _stored_secret(path: Path) -> str:
    """Return the secret in this file, created with mode 0600 by the first of concurrent starts."""
    try:
        return _read_or_make(path)
    except OSError as error:
        raise env.SettingError(path.name, f"cannot keep {path}: {error.strerror}") from None


def _stored_identity(path: Path) -> str:
    """Return the id of the data folder in this file; created once, it never changes."""
    try:
        stored = _read_or_make(path, new_ulid())
    except OSError as error:
        raise env.SettingError(path.name, f"cannot keep {path}: {error.strerror}") from None
    if not re.fullmatch(r"[0-9A-Za-z]{26}", stored):
        raise env.SettingError(path.name, f"{path} must hold an id of 26 letters and digits")
    return stored


def _read_or_make(path: Path, new: str = "") -> str:
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(new or secrets.token_urlsafe(36))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    if stored := path.read_text().strip():
        return stored
    raise env.SettingError(path.name, f"{path} is empty; remove it to have a new one made")


def _run_dir(data: Path) -> Path:
    """Return the folder for Unix sockets, whose paths must be shorter than 108 bytes."""
    if len(bytes(data / "run" / "control.sock")) <= 100:
        return _private_folder(data / "run")
    mark = hashlib.sha256(bytes(data)).hexdigest()[:12]
    folder = _private_folder(Path(tempfile.gettempdir()) / f"reef-{os.getuid()}-{mark}")
    if folder.stat().st_uid != os.getuid():
        raise env.SettingError("REEF_DATA_DIR", f"{folder} belongs to somebody else")
    return folder


def _own_redis() -> str:
    """Return the URL of the embedded Redis, with its password."""
    password = _stored_secret(DATA_DIR / "redis-password")
    return f"unix://:{password}@{quote(str(RUN_DIR / 'redis.sock'))}"


def _databases(url: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = dict(dj_database_url.parse(url))
    except (ValueError, KeyError) as error:
        raise env.SettingError("DATABASE_URL", f"cannot be read ({error})") from None
    # Persistent connections, one a thread: connecting each time costs five times as much.
    parsed["CONN_MAX_AGE"] = None
    if parsed["ENGINE"].endswith("sqlite3"):
        parsed["ENGINE"] = "reef_site.sqlite"
        parsed["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # The edge checkpoints the write-ahead log itself, long before this limit. Without
            # temp_store=MEMORY, each statement that changes many rows would create a file.
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;"
            "PRAGMA journal_size_limit=67108864;PRAGMA wal_autocheckpoint=20000;"
            "PRAGMA temp_store=MEMORY;PRAGMA cache_size=-16000",
        }
        parsed["TEST"] = {"NAME": f"{parsed['NAME']}.test"}
    else:
        parsed["CONN_HEALTH_CHECKS"] = True
        # Other followers find by it the transactions that a frozen one has left open.
        parsed.setdefault("OPTIONS", {})["application_name"] = DATA_FOLDER_ID
    return {"default": parsed}


# -- folders
_HOME = env.path("REEF_HOME", Path.home() / ".reef") if INSTALLED else BASE_DIR
DATA_DIR = _private_folder(env.path("REEF_DATA_DIR", _HOME / "data")).resolve()
RUN_DIR = _run_dir(DATA_DIR)
WEB_SOCKET = RUN_DIR / "web.sock"
LIEUTENANTS_DIR = DATA_DIR / "lieutenants"
AGENT_INSTALL_DIR = DATA_DIR / "agent"
AGENT_CONFIG_DIR = DATA_DIR / "pi"
ROOT_TOKEN_FILE = DATA_DIR / "root-token"
# Rows belong to this id, whatever the names of the folder's path and its host.
DATA_FOLDER_ID = _stored_identity(DATA_DIR / "identity")

# -- organs
NAMED_ORGANS = env.names("REEF_ORGANS")
if _unknown := organs.unknown_names(NAMED_ORGANS):
    raise env.SettingError(
        "REEF_ORGANS", f"'{_unknown[0]}' is no organ; known are {', '.join(organs.KNOWN)}"
    )
ORGANS = organs.enabled_modules(NAMED_ORGANS)
# Whether worker and beat are needed.
HAS_WORK = bool(ORGANS)

# -- secrets and access
SECRET_KEY = _stored_secret(DATA_DIR / "secret-key")
ROOT_TOKEN = env.text("VERS_AUTH_TOKEN") or _stored_secret(ROOT_TOKEN_FILE)
# Key by which the edge authenticates to web, which refuses all other requests.
EDGE_KEY = _stored_secret(DATA_DIR / "edge-key")
# Keys that encrypt stored secrets: the first encrypts, all decrypt. The file is made if needed.
CONFIG_KEYS = env.fernet_keys("REEF_CONFIG_KEYS")
CONFIG_KEYS_FILE = DATA_DIR / "config-keys"
if len(ROOT_TOKEN) < 8 or not ROOT_TOKEN.isprintable() or " " in ROOT_TOKEN:
    raise env.SettingError("VERS_AUTH_TOKEN", "must be 8 or more printable characters, no blanks")
ALLOWED_HOSTS = [
    *env.names("REEF_ALLOWED_HOSTS", each=r"\*|\.?[A-Za-z0-9.:\[\]-]+"),
    "localhost",
    "127.0.0.1",
    "[::1]",
]
# Host name for browsers on this machine, so that servers on other ports of 127.0.0.1 do not get
# reef's cookies. Agents and scripts use the address.
OWN_HOST = "reef.localhost" if env.boolean("REEF_OWN_HOST", default=True) else ""
if OWN_HOST:
    ALLOWED_HOSTS.append(OWN_HOST)
# Proxies in front of the edge, whose X-Forwarded-For is trusted.
TRUSTED_PROXIES = env.networks("REEF_TRUSTED_PROXIES")
# Limits of the edge: connections, and bytes of request bodies held at a time.
MAX_CONNECTIONS_PER_ADDRESS = env.integer(
    "REEF_MAX_CONNECTIONS_PER_ADDRESS", 500, least=1, most=5000
)
MAX_LOOPBACK_CONNECTIONS = env.integer("REEF_MAX_LOOPBACK_CONNECTIONS", 5000, least=1, most=5900)
MAX_BODY_MIB = env.integer("REEF_MAX_BODY_MIB", 256, least=24, most=1 << 16)
MAX_BODY_MIB_PER_ADDRESS = env.integer("REEF_MAX_BODY_MIB_PER_ADDRESS", 64, least=16, most=1 << 16)
# Requests a minute of one token of a node or an operator, and of the root token; 0 is no limit.
RATE_LIMIT = env.integer("REEF_RATE_LIMIT", 6000, least=0, most=10_000_000)
ROOT_RATE_LIMIT = env.integer("REEF_ROOT_RATE_LIMIT", 60_000, least=0, most=10_000_000)
# Public URL, if reef is behind a proxy; its port and path are used.
PUBLIC_URL = env.url("REEF_PUBLIC_URL", "", ("", "http", "https")).rstrip("/")
_PUBLIC = urlsplit(PUBLIC_URL)
FORCE_SCRIPT_NAME = _PUBLIC.path or None
if _PUBLIC.hostname:
    ALLOWED_HOSTS.append(_PUBLIC.hostname)
elif PUBLIC_URL:
    raise env.SettingError("REEF_PUBLIC_URL", "must be like https://reef.example:8443/path")
PORT = env.integer("PORT", 3000, least=1, most=65535)
SIGNIN_MINUTES = 15
# Address at which agents reach this reef.
INFRA_URL = env.url("VERS_INFRA_URL", f"http://127.0.0.1:{PORT}", ("http", "https")).rstrip("/")

# -- database and broker
DATABASES = _databases(
    env.url(
        "DATABASE_URL",
        f"sqlite:///{DATA_DIR / 'db.sqlite3'}",
        ("sqlite", "postgres", "postgresql"),
    )
)
REDIS_URL = env.url(
    "REDIS_URL",
    "" if env.text("REDIS_URL") else _own_redis(),
    ("redis", "rediss", "unix", "redis+socket"),
)
REDIS_URL = REDIS_URL.replace("redis+socket://", "unix://")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- lieutenants
HOST = env.matching("REEF_HOST", socket.gethostname(), r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
PI_PATH = env.text("PI_PATH")
# Set by `up` if the `pi` on the PATH cannot be used.
OWN_AGENT = env.boolean("REEF_OWN_AGENT")
DEMO = env.boolean("REEF_DEMO")
# Whether the configured VM platform is the emulator on this machine; shown on pages.
EMULATED_VMS = env.boolean("REEF_VMS_EMULATED")
# Reason why reef must not use the VM platform, even with a stored key: a demo without VMs.
NO_VMS = env.text("REEF_NO_VMS")
DEFAULT_MODEL = env.text("REEF_DEFAULT_MODEL", "reef-demo/demo" if DEMO else "")
AGENT_NAME = env.matching("VERS_AGENT_NAME", "", r"[^\x00-\x1f\x7f]{0,200}")
# Variables of the server that agents get, beside those that reef sets itself.
AGENT_ENV = [
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "TERM"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
    *("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "LLM_PROXY_KEY", "GEMINI_API_KEY", "GROQ_API_KEY"),
    *("OPENROUTER_API_KEY", "MISTRAL_API_KEY", "XAI_API_KEY", "CEREBRAS_API_KEY"),
    *env.names("REEF_AGENT_ENV", each=r"[A-Za-z_][A-Za-z0-9_]*"),
]
# Isolation of agents from reef and from each other, and further folders that they may use.
ISOLATION = env.word("REEF_ISOLATION", "auto", ("auto", "user", "landlock", "bubblewrap", "none"))
AGENT_FOLDERS = env.names("REEF_AGENT_FOLDERS", each=r"/[^,\x00-\x1f]*")
# Whether agents get the tools of reef.
AGENT_TOOLS = env.boolean("REEF_AGENT_TOOLS", True)
STALL_SECONDS = env.integer("REEF_STALL_SECONDS", 600, least=0, most=7 * 86400)
TOOL_SECONDS = env.integer("REEF_TOOL_SECONDS", 3600, least=0, most=30 * 86400)
DIALOG_SECONDS = env.integer("REEF_DIALOG_SECONDS", 3600, least=0, most=30 * 86400)
LIMIT_ACTION = env.word("REEF_LIMIT_ACTION", "abort", ("abort", "note"))
# How often a sign of each lieutenant is expected (0 is never), and how much later it may come.
SIGN_PERIOD_SECONDS = env.integer("REEF_SIGN_PERIOD_SECONDS", 0, least=0, most=30 * 86400)
SIGN_GRACE_SECONDS = env.integer("REEF_SIGN_GRACE_SECONDS", 60, least=0, most=30 * 86400)
STALL_NOTICE_SECONDS = env.integer("REEF_STALL_NOTICE_SECONDS", 60, least=1, most=86400)
START_SECONDS = env.integer("REEF_START_SECONDS", 90, least=1, most=3600)
STARTS_AT_ONCE = env.integer("REEF_STARTS_AT_ONCE", max(2, os.cpu_count() or 2), least=1, most=256)
MAX_MESSAGE_BYTES = env.integer("REEF_MAX_MESSAGE_BYTES", 1 << 20, least=1000, most=8 << 20)
DATA_UPLOAD_MAX_MEMORY_SIZE = 16 << 20
# A list's form has a field for each of up to 1000 chosen rows.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1100

# -- Django
DEBUG = False
ROOT_URLCONF = "reef_site.urls"
WSGI_APPLICATION = "reef_site.wsgi.application"
# Lower apps come before higher ones. Each declares what is wired of it (`common.apps`).
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "reef_site.common.eventlog.apps.EventLogConfig",
    "reef_site.apps.ReefSiteConfig",
    "reef_site.accounts.apps.AccountsConfig",
    "reef_site.audit.apps.AuditConfig",
    "reef_site.attention.apps.AttentionConfig",
    "reef_site.lists.apps.ListsConfig",
    "reef_site.activity.apps.ActivityConfig",
    "reef_site.storage.apps.StorageConfig",
    "reef_site.dashboard.apps.DashboardConfig",
    "vmtree.apps.VmtreeConfig",
    "vmtree.operations.apps.OperationsConfig",
    "versconfig.apps.VersconfigConfig",
    "registry.apps.RegistryConfig",
    "registry.rules.apps.RulesConfig",
    "bootloader.apps.BootloaderConfig",
    "lieutenants.apps.LieutenantsConfig",
]
MIDDLEWARE = [
    "reef_site.edge.unread_body.WithheldBodyMiddleware",
    "reef_site.middleware.ContentSecurityPolicyMiddleware",
    "reef_site.accounts.middleware.SecureCookiesMiddleware",
    "reef_site.audit.middleware.AuditMiddleware",
    "reef_site.api.http_middleware.PageGzipMiddleware",
    "reef_site.api.http_middleware.ApiGzipMiddleware",
    "reef_site.api.http_middleware.ApiConditionalGetMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "reef_site.accounts.middleware.SessionLifeMiddleware",
    "reef_site.accounts.middleware.OwnHostMiddleware",
    "reef_site.accounts.zones.TimeZoneMiddleware",
    "reef_site.middleware.OperatorsMiddleware",
    "reef_site.middleware.DiskProblemMiddleware",
    "reef_site.middleware.StorableNamesMiddleware",
    "reef_site.middleware.AliasesMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "reef_site.accounts.middleware.RecentProofMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [RESOURCES_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "builtins": ["reef_site.templatetags.names"],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "reef_site.context_processors.site",
            ],
        },
    }
]
# Web collects styles and scripts here under names with fingerprints, see `static_files`.
STATIC_URL = f"{_PUBLIC.path}/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "reef_site" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "reef_site.static_files.FingerprintStorage"},
}
LOGIN_URL = "signin"
LOGIN_REDIRECT_URL = "overview"
# Two reefs on one host share cookies, so each has names of its own.
_MARK = hashlib.sha256(f"cookies:{SECRET_KEY}".encode()).hexdigest()[:8]
SESSION_COOKIE_NAME = f"reef-session-{_MARK}"
CSRF_COOKIE_NAME = f"reef-csrf-{_MARK}"
BROWSER_COOKIE_NAME = f"reef-browser-{_MARK}"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = f"{_PUBLIC.path}/"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _PUBLIC.scheme == "https"
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_ENGINE = "reef_site.accounts.sessions"
# Lifetime of a session: without use, and in all.
SESSION_COOKIE_AGE = env.integer("REEF_SESSION_HOURS", 12, least=1, most=24 * 30) * 3600
SESSION_ABSOLUTE_AGE = env.integer("REEF_SESSION_DAYS", 7, least=1, most=90) * 86400
# Maximum age of the proof of identity for sensitive requests.
PROOF_MINUTES = env.integer("REEF_PROOF_MINUTES", 30, least=1, most=7 * 1440)
CSRF_FAILURE_VIEW = "reef_site.accounts.views.csrf_failure"
# Sent only with responses to TLS requests.
SECURE_HSTS_SECONDS = 30 * 86400
# Retention of the audit log: days, and rows.
AUDIT_DAYS = env.integer("REEF_AUDIT_DAYS", 90, least=1, most=3650)
AUDIT_ROWS = env.integer("REEF_AUDIT_ROWS", 1_000_000, least=1000, most=100_000_000)
# Retention of the event log, and of the deliveries to its subscribers: days, and events.
EVENT_DAYS = env.integer("REEF_EVENT_DAYS", 90, least=1, most=3650)
EVENT_ROWS = env.integer("REEF_EVENT_ROWS", 1_000_000, least=1000, most=100_000_000)
DELIVERY_DAYS = env.integer("REEF_DELIVERY_DAYS", 14, least=1, most=3650)
# Retention of questions that were decided: days.
QUESTION_DAYS = env.integer("REEF_QUESTION_DAYS", 90, least=1, most=3650)
# Retention of what boot scripts report, of their texts and of join tokens, and of the logs of
# provisionings: days.
BOOT_DAYS = env.integer("REEF_BOOT_DAYS", 30, least=1, most=3650)
PROVISIONING_LOG_DAYS = env.integer("REEF_PROVISIONING_LOG_DAYS", 90, least=1, most=3650)
# Retention of long arguments of tool calls, and of single model calls: days, 0 for no limit.
TOOL_DATA_DAYS = env.integer("REEF_TOOL_DATA_DAYS", 180, least=0, most=3650)
USAGE_DAYS = env.integer("REEF_USAGE_DAYS", 0, least=0, most=3650)
# Whether webhooks may reach this machine and its link, such as a receiver on 127.0.0.1.
LOCAL_WEBHOOKS = env.boolean("REEF_LOCAL_WEBHOOKS", default=False)
# The mail server for subscribers, such as smtp://user:password@mail.example:587 with STARTTLS if
# it has a user, or smtps://…:465.
_EMAIL = urlsplit(env.url("REEF_EMAIL_URL", "", ("", "smtp", "smtps")))
HAS_EMAIL = bool(_EMAIL.hostname)
EMAIL_HOST = _EMAIL.hostname or ""
EMAIL_PORT = _EMAIL.port or (465 if _EMAIL.scheme == "smtps" else 25)
EMAIL_HOST_USER = unquote(_EMAIL.username or "")
EMAIL_HOST_PASSWORD = unquote(_EMAIL.password or "")
EMAIL_USE_SSL = _EMAIL.scheme == "smtps"
EMAIL_USE_TLS = not EMAIL_USE_SSL and bool(EMAIL_HOST_USER)
EMAIL_TIMEOUT = 15
DEFAULT_FROM_EMAIL = env.matching("REEF_EMAIL_FROM", "reef@localhost", r"[^\s@]+@[^\s@]+")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
CSRF_TRUSTED_ORIGINS = [
    f"https://{host}" for host in env.names("REEF_ALLOWED_HOSTS") if host != "*"
]
if PUBLIC_URL:
    # Many proxies forward the host without its port.
    CSRF_TRUSTED_ORIGINS.append(f"{_PUBLIC.scheme}://{_PUBLIC.netloc}")
USE_TZ = True
TIME_ZONE = env.time_zone("REEF_TIME_ZONE", "UTC")
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "reef_site.formats"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "reef_site.api.authentication.BearerAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "reef_site.api.throttling.WithinLimit",
        "reef_site.api.authentication.NodePermission",
        "reef_site.common.request_names.OnlyKnownNames",
    ],
    "DEFAULT_THROTTLE_CLASSES": ["reef_site.api.throttling.TokenThrottle"],
    "DEFAULT_PARSER_CLASSES": ["reef_site.common.json_format.AnyTypeJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["reef_site.common.json_format.WireJSONRenderer"],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "reef_site.common.json_format.AlwaysJSON",
    "EXCEPTION_HANDLER": "reef_site.api.errors.answer_error",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "reef_site.api.schema.EndpointSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "reef",
    "DESCRIPTION": "Control plane for a fleet of AI coding agents.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    # Signed-in accounts and every valid token may read the schema.
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "PREPROCESSING_HOOKS": ["reef_site.api.schema.plain_paths"],
    "POSTPROCESSING_HOOKS": [],
    "COMPONENT_SPLIT_PATCH": False,
    "SORT_OPERATION_PARAMETERS": False,
    "ENABLE_DJANGO_DEPLOY_CHECK": False,
}

# -- Celery: it notifies; the database is the truth
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 10, "socket_connect_timeout": 3}
CELERY_REDIS_SOCKET_TIMEOUT = 10
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULER = "reef_site.common.scheduler:TickScheduler"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False

LOG_LEVEL = env.choice("REEF_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "reef_site.common.log_lines.LineFormatter",
            "fmt": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},
        # The client gets an explanation; a traceback in the log does not help.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "httpx": {"level": "WARNING"},
        # Its errors are raised as well, and logged by the caller.
        "paramiko": {"level": "CRITICAL"},
        # Start and end of each task are of interest for debugging only.
        "celery.worker.strategy": {"level": "DEBUG" if LOG_LEVEL == "DEBUG" else "WARNING"},
        "celery.app.trace": {"level": "DEBUG" if LOG_LEVEL == "DEBUG" else "WARNING"},
        "celery.beat": {"level": "DEBUG" if LOG_LEVEL == "DEBUG" else "WARNING"},
    },
}

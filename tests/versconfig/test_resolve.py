"""The order of the sources of a value: environment, store by scope, files, default."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from bootloader.exceptions import ProviderRefused
from bootloader.providers.vers.http import account
from reef_site.common.errors import BadInput
from tests.conftest import Api
from tests.versconfig.conftest import plant, write
from tests.versconfig.sshkeys import ED25519, OTHER
from versconfig import keys, values
from versconfig.exceptions import BadValue, Unreadable, Unset
from versconfig.models import Scope, Setting
from versconfig.resolve import Layer, Source, resolve
from versconfig.services import Target, build_change, config, put
from vmtree.models import Category, Node

SECRET = "sk-test-0123456789-abcdefghij"


def store(name: str, text: str, scope: str = "fleet", node: Node | None = None) -> None:
    put(build_change(name, text, Target(Scope(scope), node)), by="tests")


def test_first_layer_with_a_value_overrides_the_rest() -> None:
    found = resolve(
        "A",
        [
            Layer(Source.ENV, "the environment"),
            Layer(Source.STORE, "store, the fleet", "stored", scope="fleet"),
            Layer(Source.FILE, "a file", "filed"),
            Layer(Source.DEFAULT, "default", ""),
        ],
    )

    assert (found.value, found.source, found.scope) == ("stored", "store", "fleet")
    assert [layer.effective for layer in found.layers] == [False, True, False, False]
    assert [layer.overridden_by for layer in found.layers] == ["", "", "store, the fleet", ""]
    assert "stored" not in repr(found).replace("store, the fleet", "")


def test_empty_value_counts_as_unset(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERS_AGENT_ROLE", "  ")

    found = config.resolve("VERS_AGENT_ROLE")

    assert (found.value, found.source, found.effective) == (None, "unset", True)
    assert config.text("VERS_AGENT_ROLE") == ""


def test_sources_have_an_order_of_precedence(
    db: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.resolve("VERS_INFRA_URL").source == "default"
    assert config.text("VERS_INFRA_URL") == settings.INFRA_URL

    write(home, "agent-services.json", {"url": "http://file"})
    assert config.text("VERS_INFRA_URL") == "http://file"

    write(home, "agent-services.json", {"url": "http://file", "infraUrl": "http://ours"})
    assert config.text("VERS_INFRA_URL") == "http://ours"

    store("VERS_INFRA_URL", "http://store")
    assert config.resolve("VERS_INFRA_URL").effective
    assert config.text("VERS_INFRA_URL") == "http://store"

    monkeypatch.setenv("VERS_INFRA_URL", "http://env")
    found = config.resolve("VERS_INFRA_URL")
    assert (found.value, found.source, found.effective) == ("http://env", "env", False)
    assert [layer.overridden_by for layer in found.layers if layer.value][1:] == [
        "the environment"
    ] * 4


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("keys.json", {"keys": {"VERS_API_KEY": SECRET}}),
        ("config.json", {"versApiKey": SECRET}),
        ("config.json", {"api_key": SECRET, "update_check": {"check_interval": 3600}}),
    ],
)
def test_platform_key_is_read_from_all_known_files(
    db: None, home: Path, file: str, content: object
) -> None:
    write(home, file, content)

    assert config.secret("VERS_API_KEY") == SECRET
    assert config.resolve("VERS_API_KEY").source == "file"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"keys": {"VERS_API_KEY": "sk-sec', "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"keys": {"VERS_API_KEY": 5}}', "must be a text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_file_is_reported_and_counts_as_empty(
    db: None, home: Path, content: str, said: str
) -> None:
    write(home, "keys.json", content)
    write(home, "config.json", {"versApiKey": "sk-other-0123456789"})

    found = config.resolve("VERS_API_KEY")

    assert found.value == "sk-other-0123456789"
    assert any(said in problem and "keys.json" in problem for problem in found.problems)
    assert "sk-sec" not in str(found.problems)


def test_changed_files_are_read_again(db: None, home: Path) -> None:
    file = write(home, "config.json", {"baseUrl": "http://one"})
    assert config.text("VERS_BASE_URL") == "http://one"
    write(home, "config.json", {"baseUrl": "http://two"})
    assert config.text("VERS_BASE_URL") == "http://two"
    file.unlink()
    assert config.text("VERS_BASE_URL") == ""


def test_nearest_scope_is_effective(database: str) -> None:
    root = plant("root")
    middle = plant("middle", "root")
    ada = plant("ada", "middle", Category.LIEUTENANT)
    other = plant("other")
    name = "REEF_AGENT_MODEL"
    for node in (root, ada, other, None):
        assert config.text(name, node) == settings.DEFAULT_MODEL

    store(name, "p/fleet")
    store(name, "p/root", "subtree", root)
    store(name, "p/only-root", "vm", root)
    assert [config.text(name, node) for node in (None, other, root, middle, ada)] == [
        *("p/fleet", "p/fleet", "p/only-root", "p/root", "p/root"),
    ]

    store(name, "p/middle", "subtree", middle)
    assert config.text(name, ada) == "p/middle"
    store(name, "p/vm", "vm", ada)
    assert config.text(name, ada) == "p/vm"
    store(name, "p/lieutenant", "lieutenant", ada)
    found = config.resolve(name, ada)
    assert (found.value, found.scope, found.vm_id) == ("p/lieutenant", "lieutenant", "ada")
    assert config.text(name, middle) == "p/middle"


def test_explain_returns_all_layers(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("root")
    ada = plant("ada", "root", Category.LIEUTENANT)
    store("REEF_VM_VCPUS", "4")
    store("REEF_VM_VCPUS", "8", "vm", ada)

    layers = config.explain("REEF_VM_VCPUS", ada).layers

    assert [
        (layer.where, layer.value, layer.effective, layer.overridden_by) for layer in layers
    ] == [
        ("the environment", None, False, ""),
        ("store, lieutenant ada", None, False, ""),
        ("store, VM ada", "8", True, ""),
        ("store, subtree of ada", None, False, ""),
        ("store, subtree of root", None, False, ""),
        ("store, the fleet", "4", False, "store, VM ada"),
        ("default", "2", False, "store, VM ada"),
    ]


def test_number_of_statements_does_not_grow_with_keys(
    db: None, django_assert_max_num_queries: Any
) -> None:
    node = plant("low", plant("root").vm_id)

    with django_assert_max_num_queries(2):
        found = config.resolve_all(list(keys.ALL), node)

    assert list(found) == list(keys.ALL)


def test_typed_readers_return_their_type(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.integer("REEF_VM_VCPUS") == 2
    assert config.pairs("REEF_VM_LABELS") == {}
    store("REEF_VM_LABELS", "team=blue, cost-centre=4711,")
    assert config.pairs("REEF_VM_LABELS") == {"team": "blue", "cost-centre": "4711"}
    store("REEF_SSH_AUTHORIZED_KEYS", f"# people\n{ED25519}\n\n{OTHER}\n")
    assert config.lines("REEF_SSH_AUTHORIZED_KEYS") == [ED25519, OTHER]
    with pytest.raises(Unset, match="VERS_API_KEY is not set"):
        config.required("VERS_API_KEY")
    with pytest.raises(BadInput, match="Unknown config key: NOPE"):
        config.text("NOPE")


def test_error_names_the_source_of_a_bad_value_without_repeating_it(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_VM_VCPUS", "plenty")

    with pytest.raises(BadValue) as caught:
        config.integer("REEF_VM_VCPUS")

    assert str(caught.value) == (
        "REEF_VM_VCPUS (the environment): must be a whole number from 1 to 256"
    )


def test_bad_value_of_the_environment_is_not_effective(
    db: None, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEF_VM_VCPUS", "plenty")
    store("REEF_VM_VCPUS", "4")

    said = api.get("/vers-config/explain/REEF_VM_VCPUS").json()

    wrong = "must be a whole number from 1 to 256"
    assert not said["effective"]
    assert said["problems"] == [f"REEF_VM_VCPUS (the environment): {wrong}"]
    first, second, *_ = said["chain"]
    assert (first["problem"], first["effective"]) == (wrong, False)
    assert (second["effective"], second["shadowedBy"]) == (False, "the environment")
    with pytest.raises(BadValue):
        config.integer("REEF_VM_VCPUS")


def test_demo_without_vms_uses_no_stored_key(db: None, api: Api, settings: Any) -> None:
    store("VERS_API_KEY", SECRET)
    settings.NO_VMS = "this demo has no VMs (no root)"

    with pytest.raises(Unreadable, match=r"VERS_API_KEY \(the demo\): this demo has no VMs"):
        config.secret("VERS_API_KEY")
    with pytest.raises(ProviderRefused, match="this demo has no VMs"):
        account()
    said = api.get("/vers-config/explain/VERS_API_KEY").json()
    assert (said["value"], said["effective"]) == (None, False)
    answer = api.client.put(
        "/vers-config/VERS_API_KEY", {"value": SECRET}, content_type="application/json"
    )
    assert answer.json()["note"] == "stored, but the demo shadows it"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_private_keys_are_validated(tmp_path: Path, kind: str) -> None:
    def made(name: str, passphrase: str) -> str:
        words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(tmp_path / name)]
        subprocess.run(words, check=True)
        return (tmp_path / name).read_text().strip()

    key = keys.get("REEF_SSH_PRIVATE_KEY")
    good = made("good", "")
    assert values.problem(key, good) == ""
    assert values.problem(key, good.replace("\n", "\r\n")) == ""
    assert "passphrase" in values.problem(key, made("shut", "a secret"))
    assert values.problem(key, good[:-80]).startswith("must be a private key")
    assert values.problem(key, ED25519).startswith("is a public key")


def test_undecryptable_value_is_an_error_and_not_skipped(db: None, home: Path) -> None:
    write(home, "keys.json", {"keys": {"VERS_API_KEY": "sk-of-the-file-0123"}})
    store("VERS_API_KEY", SECRET)
    settings.CONFIG_KEYS_FILE.unlink()

    found = config.resolve("VERS_API_KEY")

    assert (found.value, found.source) == (None, "store")
    with pytest.raises(Unreadable, match=r"VERS_API_KEY \(store, the fleet\)"):
        config.secret("VERS_API_KEY")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("REEF_VM_VCPUS", text) for text in ("0", "-1", "1.5", "9" * 30, "٣", "2 ", "257")],
        *[
            ("VERS_BASE_URL", text)
            for text in ("ftp://x", "http://", "x", "http://a:b/", "http://[")
        ],
        *[("REEF_VM_LABELS", text) for text in ("a", "=b", "a=b;c", "a=$(id)")],
        *[("REEF_SSH_USER", text) for text in ("Root", "a b", "$(id)", "-x")],
        *[("REEF_AGENT_MODEL", text) for text in ("-x", "model", "/model", "provider/", "a b/c")],
        *[("REEF_VM_PROVIDER", text) for text in ("nobody", "Vers")],
        *[
            ("REEF_SSH_AUTHORIZED_KEYS", text)
            for text in ("ada", "ssh-ed25519 AAAA a@b", f"{ED25519}\nssh-rsa")
        ],
        ("REEF_SSH_AUTHORIZED_KEYS", ED25519.replace("ssh-ed25519", "ssh-rsa")),
        ("REEF_SSH_PRIVATE_KEY", "key"),
        ("REEF_SSH_PRIVATE_KEY", ED25519),
        ("REEF_SSH_CA_FILE", "etc/ca.pem"),
        ("VERS_API_KEY", "a\nb"),
        ("VERS_API_KEY", "a\0b"),
        ("VERS_API_KEY", "\ud800"),
        ("VERS_API_KEY", "x" * 16_001),
    ],
)
def test_invalid_values_are_rejected(name: str, text: str) -> None:
    assert values.problem(keys.get(name), text)


def test_defaults_are_valid() -> None:
    for key in keys.ALL.values():
        assert not key.default or not values.problem(key, key.default), key.name


def test_mask_shows_at_most_a_quarter_and_eight_characters() -> None:
    for length in range(1, 80):
        shown = values.mask("x" * length)
        assert shown is not None
        shown = shown.removesuffix("...")
        assert len(shown) <= min(8, length // 4)


def test_secrets_are_not_in_the_database(db: None) -> None:
    store("VERS_API_KEY", SECRET)

    row = Setting.objects.get()
    assert SECRET not in str(vars(row))
    assert SECRET not in repr(row)
    assert row.text() == SECRET
    assert settings.CONFIG_KEYS_FILE.stat().st_mode & 0o777 == 0o600

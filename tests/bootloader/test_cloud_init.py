"""cloud-init: what it is told, and that cloud-init itself takes it."""

from __future__ import annotations

import email
import gzip
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bootloader.boot import cloud_init, render, user_data
from bootloader.boot.catalog import BUILT_IN
from bootloader.boot.plan import BootPlan
from bootloader.models import JoinToken, OwnProfile, ProfileFile
from tests.bootloader.hostile_texts import VALUES
from tests.bootloader.ssh_servers import keygen
from tests.bootloader.test_hostile import plan_filled_with
from tests.conftest import Api

WISH = {"vmId": "c1", "name": "Cloud One", "type": "swarm", "parentVmId": "p1"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJustForTestsJustForTestsJustForTests op@desk"


def plan(**more: Any) -> BootPlan:
    return BootPlan(
        vm_id="c1", name="Cloud One", profile=BUILT_IN["swarm"], roof_url="https://roof", **more
    )


def config_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_user_data_has_users_keys_files_and_script() -> None:
    told = config_of(cloud_init.user_data(plan(authorized_keys=(KEY,), user="op")))

    assert told["hostname"] == "cloud-one"
    assert told["users"][1] == {
        "name": "op",
        "shell": "/bin/bash",
        "lock_passwd": True,
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "ssh_authorized_keys": [KEY],
    }
    script = told["write_files"][-1]
    assert script["content"] == render.boot_script(plan(user="op"))
    assert told["runcmd"] == [["/bin/bash", "-c", cloud_init.RUN]]
    assert script["path"] in cloud_init.RUN


def test_copied_disk_has_another_instance_id() -> None:
    one = config_of(cloud_init.meta_data(plan()))
    other = BootPlan(vm_id="c2", name="Cloud One", profile=BUILT_IN["swarm"], roof_url="https://r")

    assert one["local-hostname"] == "cloud-one"
    assert one["instance-id"] != config_of(cloud_init.meta_data(other))["instance-id"]
    # A valid DNS name for any name of a VM.
    odd = BootPlan(vm_id="c3", name="日本", profile=BUILT_IN["swarm"], roof_url="https://r")
    assert cloud_init.host_name(odd).startswith("vm-")


@pytest.mark.skipif(not shutil.which("cloud-init"), reason="cloud-init is not installed here")
@pytest.mark.timeout(300)
def test_cloud_init_accepts_the_user_data(tmp_path: Path) -> None:
    plans = [plan(authorized_keys=(KEY,), user="op", apt_mirror="http://mirror/debian")]
    plans += [BootPlan("v", "n", each, "https://roof") for each in BUILT_IN.values()]
    plans += [plan_filled_with(value) for value in VALUES[::40]]
    for number, each in enumerate(plans):
        file = tmp_path / f"{number}.yaml"
        file.write_text(cloud_init.user_data(each))

        told = subprocess.run(
            ["cloud-init", "schema", "--config-file", str(file)], capture_output=True, text=True
        )

        assert told.returncode == 0, told.stdout + told.stderr
        assert told.stdout.startswith("Valid"), told.stdout


@pytest.mark.rotated
@pytest.mark.django_db
def test_post_has_a_token_and_get_has_none(api: Api) -> None:
    query = "vmId=c1&name=Cloud+One&type=swarm&extraOrgans=minio,gitea"
    looked = api.get(f"/bootloader/cloud-init?{query}")

    assert looked.status_code == 200, looked.content
    assert looked["Content-Type"] == "text/cloud-config; charset=utf-8"
    assert not JoinToken.objects.exists()
    assert "reefjoin_" not in looked.content.decode()
    assert "REEF_ORGANS' 'store,cron,minio,gitea'" in looked.content.decode()

    made = api.post("/bootloader/cloud-init?form=json&for=ec2", WISH).json()

    assert JoinToken.objects.get().vm_id == "c1"
    assert made["joinToken"] in config_of(made["userData"])["write_files"][-1]["content"]
    assert config_of(made["metaData"])["reef"]["vm_id"] == "c1"


@pytest.mark.django_db
def test_seed_has_user_data_and_meta_data(api: Api) -> None:
    answer = api.post("/bootloader/cloud-init?form=seed", WISH)

    assert answer["Content-Type"] == "application/zip"
    assert answer["Content-Disposition"] == 'attachment; filename="cloud-one-seed.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert sorted(archive.namelist()) == ["meta-data", "user-data"]
    assert archive.read("user-data").startswith(b"#cloud-config\n")
    assert config_of(archive.read("meta-data").decode())["local-hostname"] == "cloud-one"


@pytest.mark.django_db
def test_seed_as_cd_image(api: Api, tmp_path: Path) -> None:
    answer = api.post("/bootloader/cloud-init?form=iso", WISH)
    assert answer["Content-Disposition"] == 'attachment; filename="cloud-one-seed.iso"'
    file = tmp_path / "seed.iso"
    file.write_bytes(answer.content)

    if shutil.which("blkid"):
        asked = ["blkid", "-p", "-o", "value", "-s", "LABEL", "-s", "TYPE", str(file)]
        told = subprocess.run(asked, capture_output=True, text=True)
        assert set(told.stdout.split()) == {"cidata", "iso9660"}
    found = files_on(answer.content)
    assert list(found) == ["META-DATA.;1", "USER-DATA.;1"]
    assert config_of(found["META-DATA.;1"].decode())["local-hostname"] == "cloud-one"
    assert b"reefjoin_" in found["USER-DATA.;1"]


def files_on(image: bytes) -> dict[str, bytes]:
    """Return the files in the top folder of a CD image by ECMA-119."""
    volume = image[16 * 2048 : 17 * 2048]
    assert volume[1:6] == b"CD001"
    assert int.from_bytes(volume[80:84], "little") * 2048 == len(image)
    place, size = (int.from_bytes(volume[156 + at : 160 + at], "little") for at in (2, 10))
    folder, found = image[place * 2048 : place * 2048 + size], {}
    while folder and folder[0]:
        start, length = (int.from_bytes(folder[at : at + 4], "little") for at in (2, 10))
        assert int.from_bytes(folder[6:10], "big") == start
        name = folder[33 : 33 + folder[32]]
        if not folder[25] & 2:
            found[name.decode()] = image[start * 2048 : start * 2048 + length]
        folder = folder[folder[0] :]
    return found


@pytest.mark.django_db
def test_files_and_size_of_the_profile_are_included(api: Api) -> None:
    own = OwnProfile.objects.create(
        type="minio", description="Stores.", category="infra_vm", role="infra", memory_mib=4096
    )
    ProfileFile.objects.create(profile=own, path="/etc/minio.conf", text="a: 'b'\n", mode=0o600)

    made = api.post("/bootloader/cloud-init?form=json", {**WISH, "type": "minio"}).json()

    assert config_of(made["userData"])["write_files"][0] == {
        "path": "/etc/minio.conf",
        "permissions": "0600",
        "content": "a: 'b'\n",
    }
    assert config_of(made["metaData"])["reef"]["memory_mib"] == 4096


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "vmId, name, and type are required"),
        ({"type": "boss"}, "Unknown VM type: boss. Valid: full, swarm, lightweight, infra"),
        ({"roofReefUrl": "ftp://x"}, "roofReefUrl: must be a URL of http or https"),
        ({"roofReefUrl": "https://x/\ny"}, "roofReefUrl: must be a URL of http or https"),
        ({"vmId": "a\0b"}, "vmId: has characters that are no text"),
        ({"parentVmId": 7}, "parentVmId: must be a string"),
        ({"extraOrgans": ["a", 1]}, "extraOrgans: must be a list of text"),
    ],
)
def test_invalid_input_is_rejected_with_a_reason(
    api: Api, change: dict[str, Any], says: str
) -> None:
    for path in ("/bootloader/cloud-init", "/bootloader/generate"):
        answer = api.post(path, json.dumps({**WISH, **change}))
        assert (answer.status_code, answer.json()) == (400, {"error": says})
    assert api.post("/bootloader/cloud-init?form=floppy", WISH).status_code == 400


# -- forms and sizes -----------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("profile", list(BUILT_IN))
def test_default_form_fits_every_cloud(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    keygen(tmp_path / "key", "rsa")
    public = (tmp_path / "key.pub").read_text().strip()
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "LLM_PROXY_KEY"):
        monkeypatch.setenv(name, "k" * 200)
    monkeypatch.setenv("REEF_SSH_AUTHORIZED_KEYS", "\n".join([public] * 4))
    monkeypatch.setenv("REEF_NPM_REGISTRY", f"https://{'m' * 60}.example/npm")
    wish = {
        "vmId": "i" * 255,
        "name": "é" * 255,
        "type": profile,
        "parentVmId": "p" * 255,
        "roofReefUrl": f"https://{'r' * 60}.example",
        "extraOrgans": ["services", "ui", "gitea", "minio"],
        "address": "a" * 63 + ".example",
    }
    made = api.post("/bootloader/cloud-init?form=json&for=ec2", wish)
    assert made.status_code == 201, made.content
    said = made.json()
    assert said["bytes"] == len(said["userData"].encode()) <= 16_384
    assert {each["cloud"]: each["fits"] for each in said["limits"]}["ec2"] is True
    assert "SHA-256" in said["userData"]


@pytest.mark.django_db
def test_user_data_too_large_for_a_cloud_is_rejected(api: Api) -> None:
    answer = api.post("/bootloader/cloud-init?whole=true&for=ec2", WISH)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("for: ec2 takes 16384 bytes of user-data, and this is")
    assert not JoinToken.objects.exists()
    answer = api.post("/bootloader/cloud-init?for=moon", WISH)
    assert answer.json()["error"].startswith("for: must be one of ec2, hetzner")

    squeezed = api.post("/bootloader/cloud-init?whole=true&for=ec2&form=gzip", WISH)
    assert squeezed.status_code == 200
    assert squeezed["Content-Type"] == "application/gzip"
    assert len(squeezed.content) <= 16_384
    whole = config_of(gzip.decompress(squeezed.content).decode())["write_files"][-1]["content"]
    assert render.body() in whole


@pytest.mark.django_db
def test_multipart_includes_the_operators_own_part(api: Api) -> None:
    own = "#cloud-config\npackages: [mtr-tiny]\n"
    answer = api.post("/bootloader/cloud-init?form=mime", {**WISH, "userData": own})
    assert answer.status_code == 200, answer.content
    archive = email.message_from_bytes(answer.content)
    parts: list[Any] = list(archive.walk())[1:]
    assert [part.get_content_type() for part in parts] == ["text/cloud-config"] * 2
    ours, theirs = (part.get_payload(decode=True).decode() for part in parts)
    assert "write_files" in config_of(ours)
    assert theirs == own
    assert {part["X-Merge-Type"] for part in parts} == {user_data.MERGE}

    wrong = api.post("/bootloader/cloud-init?form=mime", {**WISH, "userData": "hello"})
    assert wrong.status_code == 400
    assert wrong.json()["error"].startswith("userData: must begin with one of #cloud-config, #!")

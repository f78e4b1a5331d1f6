"""SSH hosts of the operator, and their uses."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Exists, F, OuterRef, Q

from reef_site.common import clock
from reef_site.common.hooks import Hook
from versconfig import vault

# An alias in ~/.ssh/config may say something else.
USUAL_PORT, USUAL_USER = 22, "root"
_PUBLIC_KEY = r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,3}"

busy_hosts: Hook[Callable[[], Iterable[uuid.UUID]]] = Hook(
    "ssh_hosts.busy", "Return the hosts that something uses which is not a VM of a provider."
)


def _size(label: str) -> Any:
    return models.PositiveIntegerField(
        label,
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Leave empty if unknown. The host then matches any request.",
    )


class SshHostQuerySet(models.QuerySet["SshHost"]):
    def free(self) -> Self:
        """Return hosts in service that nobody uses."""
        used = HostClaim.objects.active().filter(host=OuterRef("pk"))
        busy = {pk for find in busy_hosts for pk in find()}
        return self.filter(Q(in_service=True), ~Exists(used)).exclude(pk__in=busy)


class SshHost(models.Model):
    """A machine and its SSH parameters.

    Its private key is stored encrypted; without one the fleet's shared key is used. `host_key` is
    one line as in known_hosts without the name, and is empty until the first connection.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(
        max_length=80,
        unique=True,
        validators=[RegexValidator(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", "letters, digits, . _ -")],
    )
    address = models.CharField(
        max_length=253,
        validators=[
            RegexValidator(r"\A[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?\Z|\A::1\Z", "a host")
        ],
        help_text="Host name or IP address, as seen from this reef, or an alias in its "
        "~/.ssh/config.",
    )
    port = models.PositiveIntegerField(
        default=USUAL_PORT, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    user = models.CharField(
        max_length=32,
        default=USUAL_USER,
        validators=[RegexValidator(r"\A[a-zA-Z_][a-zA-Z0-9._-]*\Z", "a user's name")],
    )
    jump = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="reached_through",
        verbose_name="jump host",
        help_text="The SSH host through which this one is reached, if it is not reached directly.",
    )
    sealed_key = models.TextField(blank=True, editable=False)
    host_key = models.CharField(
        max_length=2000,
        blank=True,
        validators=[
            RegexValidator(rf"\A{_PUBLIC_KEY}\Z", "like “ssh-ed25519 AAAA…”, without a name")
        ],
        help_text="Leave empty to store the first key shown. Any other key is rejected.",
    )
    region = models.CharField(max_length=80, blank=True)
    size = models.CharField("size class", max_length=80, blank=True)
    vcpus = _size("virtual processors")
    memory_mib = _size("memory in MiB")
    disk_mib = _size("disk in MiB")
    in_service = models.BooleanField(default=True, help_text="May be used for new VMs.")
    note = models.CharField(max_length=300, blank=True)
    added_at = models.DateTimeField(default=clock.now, editable=False)

    objects = SshHostQuerySet.as_manager()

    class Meta:
        verbose_name = "SSH host"
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["address", "port"],
                condition=Q(jump__isnull=True),
                name="one_host_an_address",
            ),
            models.UniqueConstraint(
                fields=["address", "port", "jump"], name="one_host_an_address_behind_jump"
            ),
            models.CheckConstraint(condition=~Q(jump=F("pk")), name="host_not_behind_itself"),
            models.CheckConstraint(condition=Q(port__gte=1, port__lte=65535), name="host_port"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Reject a jump host that is reached through this host."""
        if self.jump is not None and self in self.jump.line():
            raise ValidationError({"jump": f"{self.jump} is itself reached through {self}"})

    def line(self) -> list[SshHost]:
        """Return this host and its jump hosts, the one that is reached directly last."""
        found: list[SshHost] = [self]
        while (nearer := found[-1].jump) is not None and nearer not in found:
            found.append(nearer)
        return found

    def set_key(self, text: str) -> None:
        """Encrypt this private key into the field; an empty text clears it. Does not save."""
        self.sealed_key = vault.seal(self._seal_name(), text) if text else ""

    def key(self) -> str:
        """Return the host's own private key, decrypted; empty if it has none. Raise Unreadable."""
        return vault.unseal(self._seal_name(), self.sealed_key) if self.sealed_key else ""

    def _seal_name(self) -> str:
        return f"SSH host {self.pk}"

    def keep_host_key(self, line: str) -> None:
        """Store the host key unless one is stored already."""
        SshHost.objects.filter(pk=self.pk, host_key="").update(host_key=line)


class HostClaimQuerySet(models.QuerySet["HostClaim"]):
    def active(self) -> Self:
        """Return claims that are not released."""
        return self.filter(released_at__isnull=True)


class HostClaim(models.Model):
    """One use of a host: a machine of this provider. Each use has its own id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(SshHost, models.PROTECT, related_name="claims")
    name = models.CharField(max_length=255)
    labels = models.JSONField(default=dict, blank=True)
    claimed_at = models.DateTimeField(default=clock.now)
    released_at = models.DateTimeField(null=True, blank=True)

    objects = HostClaimQuerySet.as_manager()

    class Meta:
        ordering = ["-claimed_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["host"], condition=Q(released_at__isnull=True), name="one_claim_a_host"
            )
        ]
        indexes = [models.Index(fields=["released_at", "name"], name="claim_by_name")]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"

"""The admin of the bootloader; a subject with much to it has a file of its own."""

from __future__ import annotations

from bootloader import grant_admin as grant_admin
from bootloader import joining_admin as joining_admin
from bootloader import profile_admin as profile_admin
from bootloader import provision_admin as provision_admin
from bootloader import ssh_hosts_admin as ssh_hosts_admin

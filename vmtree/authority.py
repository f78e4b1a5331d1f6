"""The old name of `vmtree.permissions`."""

from __future__ import annotations

from vmtree.permissions import ACCOUNTS as ACCOUNTS
from vmtree.permissions import RULE as RULE
from vmtree.permissions import allows as allows
from vmtree.permissions import check as check
from vmtree.permissions import is_read_only_account as is_read_only_account
from vmtree.permissions import may as may
from vmtree.permissions import node_of as node_of

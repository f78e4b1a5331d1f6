"""Statements that PostgreSQL plans once for each connection."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from reef_site.common.queries import fetch_prepared

PLANS = "SELECT current_setting('plan_cache_mode')"


@pytest.mark.postgres
@pytest.mark.usefixtures("postgres")
def test_settings_outlast_a_transaction_that_is_rolled_back() -> None:
    with transaction.atomic():
        assert fetch_prepared(PLANS, {}) == [("force_generic_plan",)]
        transaction.set_rollback(True)
    assert fetch_prepared(PLANS, {}) == [("force_generic_plan",)]
    assert connection.vendor == "postgresql"

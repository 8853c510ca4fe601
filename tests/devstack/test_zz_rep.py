import pytest
from tests.devstack.test_gateway import test_while_postgres_is_down as t
from tests.devstack.conftest import *
@pytest.mark.parametrize("i", range(12))
async def test_it(i, embedded, http, service, anon, alice):
    await t(embedded, http, service, anon, alice)

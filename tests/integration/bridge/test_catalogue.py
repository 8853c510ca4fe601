"""The catalogue: a worker that starts describes its functions, and users read them."""

import psycopg
import pytest
from postgrest.exceptions import APIError

from bridge.store import Store
from tests.support.database import Row
from tests.support.users import Person
from tests.support.waiting import until
from tests.support.workers import worker_settings, working

HANDLERS = "tests.support.handlers"


async def test_worker_describes_its_functions(environment: dict[str, str], user: Person) -> None:
    async with working(environment, handlers=HANDLERS, functions="Code,Loud"):

        async def are_described() -> bool:
            return {"Code", "Loud"} <= {row["name"] for row in await user.rows("functions")}

        await until(are_described, within=20)
    rows = {row["name"]: row["result"] for row in await user.rows("functions")}
    assert list(rows["Code"]["properties"]) == ["reply", "files"]
    assert rows["Loud"] is None  # a handler


async def test_order_of_fields_survives_the_database(
    environment: dict[str, str], user: Person, db: psycopg.AsyncConnection[Row]
) -> None:
    names = [f"field{n * 7 % 11}" * (n % 3 + 1) for n in range(11)]
    store = await Store.open(worker_settings(environment), "catalogue")
    try:
        await store.describe({"Ordered": {"properties": {name: {} for name in names}}})
        (row,) = await user.rows("functions", name="Ordered")
        assert list(row["result"]["properties"]) == names
        await store.describe({"Ordered": {"properties": {name: {} for name in names[::-1]}}, "Other": None})
        (row,) = await user.rows("functions", name="Ordered")
        assert list(row["result"]["properties"]) == names[::-1]
        await store.describe({"Ordered": {"properties": {"x" * 70_000: {}}}, "n" * 200: None})  # too large
        assert (await user.rows("functions", name="Ordered"))[0]["result"] is None
        # what nobody has known for a day is forgotten at the next start
        await db.execute("update public.functions set updated_at = now() - interval '2 days'")
        await store.describe({"Other": None})
        assert [row["name"] for row in await user.rows("functions") if row["name"] in ("Ordered", "Other")] == ["Other"]
    finally:
        await store.close()


async def test_users_cannot_write_the_catalogue(user: Person) -> None:
    table = user.client.table("functions")
    for request in (
        table.insert({"name": "Mine"}),
        table.update({"result": None}).neq("name", ""),
        table.delete().neq("name", ""),
    ):
        with pytest.raises(APIError) as error:
            await request.execute()
        assert error.value.code == "42501"
    with pytest.raises(APIError):
        await user.client.rpc("bridge_describe", {"functions": []}).execute()

"""Questions that name objects in the very moment in which these are found to be orphans, are removed or are trimmed."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from devstack.stack import Stack
from tests.integration.schema.attaching import Attaching
from tests.integration.schema.interleaving import connected

SEEDS = range(int(os.environ.get("ATTACHINGS", "30")))


async def run(stack: Stack, seed: int) -> Counter[str]:
    """One run; what it did."""
    async with connected(stack.admin_url, 2 + seed % 3) as (db, hands):
        attaching = Attaching(seed, db, hands)
        await attaching.prepare()
        await attaching.go(120)
        await attaching.finish_all()
        return attaching.done


@pytest.mark.parametrize("seed", SEEDS)
async def test_message_never_names_an_object_that_is_gone(stack: Stack, seed: int) -> None:
    await run(stack, seed)


async def test_random_orders_try_everything(stack: Stack) -> None:
    done = Counter[str]()
    for seed in range(1000, 1008):
        done += await run(stack, seed)
    assert min(done[kind] for kind in ("insert", "insert PT404", "search", "remove", "trim")) > 10, done
    assert {"delete", "done", "waited"} <= set(done), done

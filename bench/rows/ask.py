"""From the user's answer to the handler's next line, against from a question to the handler's first line.

Both count from the transaction that writes it. The handler runs again from its first line, reads what it has done, and
comes to the answer.
"""

from __future__ import annotations

from bench.database import one_row
from bench.report import Measured, ratio
from bench.resumption import asking, gone_on
from bench.world import World


async def run(world: World) -> Measured:
    """Ask, wait for the handler's question, answer; the two times are of the same reply."""
    project, model = await world.project(), await world.model()
    answered, asked = [], []
    async with asking(world, project, model) as asker:
        for number in range(world.pick(8, 30) + 2):
            question = await asker.ask(0)
            at = await asker.answer(question)
            told = await gone_on(asker.db, question)
            row = await one_row(
                asker.db,
                "select extract(epoch from created_at)::float8 as at from public.messages where id = %s",
                (question,),
            )
            if number >= 2:  # the first ones fill caches
                asked.append((told["began"] - row["at"]) * 1000)
                answered.append((told["answered"] - at) * 1000)
    return Measured([ratio("ask", answered, asked, unit="ms")])

"""Steps outside of a worker, as in a test: nothing is remembered, and no BAML function can be called."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from bridge.model import Completion, Partial, Settled, StepWrite
from bridge.step_values import broken


class Unremembered:
    """In place of a worker."""

    def result_of(self, function: Callable[..., Any]) -> Any:
        """There is no BAML function."""
        raise broken("the handler calls a BAML function, which needs a worker")

    async def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> AsyncGenerator[Partial | Completion, None]:
        """There is no BAML function."""
        raise broken("the handler calls a BAML function, which needs a worker")
        yield Partial("")

    async def read(
        self, pieces: AsyncGenerator[Partial | Completion, None], on_piece: Callable[[Partial], None]
    ) -> Completion:
        """There is no BAML function."""
        raise broken("the handler calls a BAML function, which needs a worker")

    async def remember(self, write: StepWrite) -> str:
        """Nothing is written."""
        return "ok"

    def has_used_up(self, question_id: str) -> bool:
        """Nobody is charged."""
        return False

    async def settle(self) -> Settled:
        """Nothing is sent."""
        return Settled(0, 0)

    def has_part(self, key: str) -> bool:
        """Whatever was shown is kept."""
        return True

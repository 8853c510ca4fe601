"""What Procrastinate's worker and who defers its jobs agree on."""

from __future__ import annotations

from procrastinate import App, PsycopgConnector

QUEUE = "replies"
TASK = "bench.answer"


def deferring_app(url: str) -> App:
    """The application of who asks: it defers by name."""
    return App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=4))

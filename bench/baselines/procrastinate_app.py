"""What Procrastinate's worker and the client that defers jobs share."""

from __future__ import annotations

from procrastinate import App, PsycopgConnector

QUEUE = "replies"
TASK = "bench.answer"


def deferring_app(url: str) -> App:
    """The client's application: it defers jobs by name."""
    return App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=4))

"""What Prometheus reads."""

from __future__ import annotations

from bridge.metrics import labelled


def test_a_label_is_escaped() -> None:
    """A handler may end a reply with any code."""
    text = labelled("bridge_given_up_total", "Questions given up.", "reason", {'the "odd"\n\\ one': 1})
    assert text.splitlines()[2:] == ['bridge_given_up_total{reason="the \\"odd\\"\\n\\\\ one"} 1']

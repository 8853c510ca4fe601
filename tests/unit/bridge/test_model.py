"""Snapshots of the database, as text."""

from __future__ import annotations

import pytest

from bridge.model import Snapshot


@pytest.mark.parametrize(
    ("text", "seen", "unseen"),
    [
        ("10:10:", [1, 9], [10, 11]),
        ("10:14:10,12", [9, 11, 13], [10, 12, 14]),
    ],
)
def test_snapshot_sees_finished_transactions_only(text: str, seen: list[int], unseen: list[int]) -> None:
    snapshot = Snapshot.read(text)
    assert all(snapshot.sees(xid) for xid in seen)
    assert not any(snapshot.sees(xid) for xid in unseen)


def test_malformed_snapshot_raises() -> None:
    with pytest.raises(ValueError, match="unpack"):
        Snapshot.read("10")

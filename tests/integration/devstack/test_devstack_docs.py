"""docs/devstack.md agrees with the tests."""

from __future__ import annotations

import re
from pathlib import Path

from devstack.migrations import PROJECT
from tests.conformance import test_conformance_auth, test_conformance_rest, test_conformance_rpc
from tests.integration.devstack.realtime.test_realtime_recordings import EXCEPTIONS

PAGE = (PROJECT / "docs" / "devstack.md").read_text()
RECORDINGS = Path(__file__).parent / "realtime" / "recordings"
VERSIONS = {"v1": "1.0.0", "v2": "2.0.0"}


def test_page_lists_every_recording() -> None:
    played: dict[str, list[str]] = {}
    for path in sorted(RECORDINGS.glob("*.jsonl")):
        name, version, _ = path.name.split(".")
        played.setdefault(name, []).append(VERSIONS[version])
    rows = re.findall(r"^\| `(\d\w+)` \| .* \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    passing = {name: versions.split(", ") for name, versions, result in rows if result.startswith("pass")}
    assert passing == played
    others = [(name, result) for name, _, result in rows if name not in passing]
    assert others == [("15_cold_start_pg_restart_shutdown", "not replayed: 3")]
    noted = {(name, int(number)) for name, _, result in rows for number in re.findall(r"pass, except (\d)$", result)}
    assert noted == {(name.partition(".")[0], number) for name, numbers in EXCEPTIONS.items() for number in numbers}
    for number in {number for _, number in noted} | {3}:
        assert re.search(rf"^{number}\. ", PAGE, re.MULTILINE), "the footnote is missing"


def test_page_lists_every_expected_failure() -> None:
    found = [
        mark.kwargs["reason"]
        for module in (test_conformance_auth, test_conformance_rest, test_conformance_rpc)
        for test in vars(module).values()
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "xfail"
    ]
    assert len(found) == 2
    for reason in found:
        assert f"- {reason}" in PAGE

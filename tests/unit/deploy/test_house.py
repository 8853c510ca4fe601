"""CHANGELOG, CONTRIBUTING and README match the project."""

from __future__ import annotations

import json
import re

from tests.support import ROOT
from tests.unit.deploy.test_image import PROJECT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_changelog_follows_keep_a_changelog() -> None:
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert all(day for _, day in versions[1:])
    kinds = set(re.findall(r"^### (\w+)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert PROJECT["project"]["version"] in CHANGELOG


def test_bridge_and_client_have_the_same_version() -> None:
    client = json.loads((ROOT / "client" / "package.json").read_text())
    assert client["version"] == PROJECT["project"]["version"]


def test_named_files_exist() -> None:
    for page in ("CHANGELOG.md", "CONTRIBUTING.md", "README.md"):
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{page}: {target}"
        for path in re.findall(r"`((?:bridge|tests|docs|deploy|devstack|supabase|baml_src)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"

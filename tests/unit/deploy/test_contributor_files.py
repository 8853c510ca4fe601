"""The files for contributors parse, and everything they name exists."""

from __future__ import annotations

import configparser
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack.dev import WEB_PORT
from tests.support import ROOT
from tests.unit.deploy.test_image import PROJECT

BIN = Path(sys.executable).parent
MAKEFILE = (ROOT / "Makefile").read_text()
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir() if path.stem != "config")


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def tools(text: str) -> set[str]:
    """The programs of the virtual environment in these commands, with Node's behind `-m`."""
    return set(re.findall(r"\.venv/bin/(\S+)", text.replace("$(BIN)", ".venv/bin")))


def test_hooks_run_the_tools_of_make_check() -> None:
    repositories = load(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]  # nothing is fetched
    entries = [hook["entry"] for hook in repositories[0]["hooks"] if "commit-msg" not in hook.get("stages", [])]
    (check,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert tools("\n".join(entries)) == tools(check)
    assert all((BIN / name).is_file() for name in tools(check))
    [compiler] = [entry for entry in entries if "devstack.node" in entry]
    assert compiler.partition(" ")[2] in check


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_form_has_labelled_fields(form: Path) -> None:
    read = yaml.safe_load(form.read_text())
    assert read["name"]
    assert read["description"]
    fields = [field for field in read["body"] if field["type"] != "markdown"]
    assert fields
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names))


def test_issue_chooser_and_pull_request_template_exist() -> None:
    assert load(".github/ISSUE_TEMPLATE/config.yml")["blank_issues_enabled"] in (True, False)
    template = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    for path in re.findall(r"`([\w/]+(?:/|\.md))`", template):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([a-z-]+)`", template):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_code_owners_own_existing_paths() -> None:
    lines = [line.split() for line in (ROOT / ".github" / "CODEOWNERS").read_text().splitlines() if line[:1] != "#"]
    assert lines[0][0] == "*"
    for pattern, *owners in lines:
        assert all(owner.startswith("@") for owner in owners)
        assert list(ROOT.glob(pattern.strip("/"))), pattern


def test_dependabot_watches_every_ecosystem_but_exact_pins() -> None:
    updates = {update["package-ecosystem"]: update for update in load(".github/dependabot.yml")["updates"]}
    assert set(updates) == {"pip", "npm", "docker", "github-actions"}
    assert all(update["directory"] == "/" for update in updates.values())
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    pinned = {line.partition("==")[0] for line in wanted if "==" in line}
    assert {entry["dependency-name"] for entry in updates["pip"]["ignore"]} == pinned


def test_devcontainer_forwards_page_and_supabase() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    (supabase,) = re.findall(r"default=(\d+),", (ROOT / "devstack" / "dev.py").read_text())
    assert container["forwardPorts"] == [WEB_PORT, int(supabase)]
    assert set(container["portsAttributes"]) == {str(port) for port in container["forwardPorts"]}
    assert "make setup" in container["postCreateCommand"]


def test_editorconfig_has_ruffs_line_length() -> None:
    config = configparser.ConfigParser()
    config.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    assert config["top"]["root"] == "true"
    assert int(config["*"]["max_line_length"]) == PROJECT["tool"]["ruff"]["line-length"]
    assert config["Makefile"]["indent_style"] == "tab"

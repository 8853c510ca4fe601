"""Every command in a shell block exists, with its subcommand and options."""

from __future__ import annotations

import pytest

from tests.support import shell
from tests.support.blocks import Block, code_of

CHECKED = code_of("sh")


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
def test_commands_exist(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    found = shell.commands(block.text)
    assert found
    for words in found:
        if reason := shell.check(words):
            with capsys.disabled():
                print(f"\n{block.name}: `{' '.join(words)}` is not checked: {reason}")


@pytest.mark.parametrize(
    "wrong",
    [
        "make everything",
        "make bench ARGS=--slow",
        "bridge walk",
        "bridge dead list --every",
        "bridge dead list -x",
        ".venv/bin/baml-cli generat",
        ".venv/bin/python -m devstack --folder x",
        "python -m bridge.nothing",
        "python -m devstack environment",
        "supabase db push --quickly",
        "npx supabase projects creat bridge",
        "pytest tests/nothing",
        "cp .env.sample .env",
        "frobnicate",
    ],
)
def test_wrong_command_is_detected(wrong: str) -> None:
    (words,) = shell.commands(wrong)
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        shell.check(words)

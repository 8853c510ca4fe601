"""A test runs or compiles every block of the documentation, unless a comment gives a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.migrations import PROJECT
from tests.e2e import test_gallery_types
from tests.integration.docs import (
    test_frontend_guide,
    test_functions_guide,
    test_own_tests,
    test_sql_blocks,
    test_typescript_blocks,
)
from tests.support.blocks import BLOCKS, Block, blocks_of
from tests.unit.deploy import test_hosts
from tests.unit.docs import test_settings_guide, test_shell_blocks

MODULES = (
    test_frontend_guide,
    test_functions_guide,
    test_hosts,
    test_own_tests,
    test_settings_guide,
    test_shell_blocks,
    test_sql_blocks,
    test_typescript_blocks,
)
NO_CODE = ("", "text", "{toctree}")  # drawings, program output, and Sphinx's own

# tests/e2e runs client/examples in a browser, and compiles the gallery's typed results
EXAMPLES = {path.read_text() for path in (PROJECT / "client" / "examples").iterdir()}
# client/test/package.test.ts compiles the blocks of the client's README
COMPILED = [block for block in BLOCKS if block.page.parent.name == "client" and block.language in ("ts", "tsx")]
RESULTS = {test_gallery_types.block(language) for language in ("baml", "ts")}


def test_every_block_is_checked_or_exempt(capsys: pytest.CaptureFixture[str]) -> None:
    checked = [block for module in MODULES for block in module.CHECKED]
    checked += [block for block in BLOCKS if block.page.name == "gallery.md" and block.text in EXAMPLES | RESULTS]
    checked += COMPILED
    assert len(checked) > 30
    unchecked = []
    for block in BLOCKS:
        if block.not_run is not None:
            assert block not in checked
            with capsys.disabled():
                print(f"\n{block.name}: not run: {block.not_run}")
        elif block.language not in NO_CODE and block not in checked:
            unchecked.append(f"{block.name} ({block.language})")
    assert unchecked == []


def test_blocks_keep_their_text_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = "<!-- not run: needs a phone -->\n\n````sh\ncall ```me```\n````\n"
    page.write_text(first + "\nText\n\n1. x\n\n   ```js\n   a\n\n     b\n   ```\n")
    assert blocks_of(page) == [
        Block(page, 3, "sh", "call ```me```\n", "needs a phone"),
        Block(page, 11, "js", "a\n\n  b\n"),
    ]
    page.write_text("```sh\nfor ever\n")
    with pytest.raises(ValueError, match="not closed"):
        blocks_of(page)

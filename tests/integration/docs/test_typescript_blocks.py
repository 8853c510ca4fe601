"""TypeScript fragments of the pages compile against the package."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from devstack.migrations import PROJECT
from devstack.node import node
from tests.e2e.test_gallery_types import TSC
from tests.support.blocks import BLOCKS, Block

PACKAGE = "supabase-baml-bridge-client"
# what the reader's page declares around the fragment
AROUND = {
    "client/README.md": f"""
import type {{ SupabaseClient }} from "@supabase/supabase-js";
import {{ openSession, type Database, type SessionSnapshot }} from "{PACKAGE}";
declare const supabase: SupabaseClient<Database>;
declare const sessionId: string;
declare function render(state: SessionSnapshot): void;
""",
    "docs/gallery.md": f"""
import type {{ ChatSession, CodeFile, CodeFileRow }} from "{PACKAGE}";
declare const session: ChatSession;
declare const file: CodeFile;
declare const text: string;
declare const revision: number;
declare function showBoth(mine: string, theirs: CodeFileRow | null): void;
""",
}
CHECKED = [
    block
    for block in BLOCKS
    if block.language == "ts" and str(block.page.relative_to(PROJECT)) in AROUND and "import " not in block.text
]


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
def test_fragment_compiles(block: Block, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(PROJECT / "node_modules")
    configuration = {"extends": str(PROJECT / "client" / "tsconfig.json"), "include": ["page.ts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(configuration))
    (tmp_path / "page.ts").write_text(AROUND[str(block.page.relative_to(PROJECT))] + block.text)
    command = [node(), str(TSC), "--noEmit", "--project", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout == ""

"""The gallery's section on typed results matches BAML's generator, and compiles."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.migrations import PROJECT
from devstack.node import node
from tests.support import shipped

CLI = Path(sys.executable).with_name("baml-cli")
TSC = PROJECT / "node_modules" / "typescript" / "bin" / "tsc"

# a page around the gallery's two lines, with checks of the type of `data`
_PAGE = """
import type {{ SupabaseClient }} from "@supabase/supabase-js";
import {{ useSession }} from "supabase-baml-bridge-client/react";
{imports}
declare const supabase: SupabaseClient;

export function page(id: string): number {{
  {body}
  const message = messages[0];
  if (message?.role !== "assistant" || message.data === null) return 0;
  if (message.status === "done") {{
    const whole: CodeReply = message.data;
    return whole.files.length;
  }}
  {expected}
  const wrong: CodeReply = message.data;
  return message.data.files?.length ?? wrong.files.length;
}}
"""


def section() -> str:
    gallery = (PROJECT / "docs" / "gallery.md").read_text()
    return gallery.partition("### Typed results\n")[2].partition("\n### ")[0]


def block(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", section(), re.M | re.S)
    return str(code)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `web/src` of a project in which the gallery's generator has run."""
    folder = tmp_path_factory.mktemp("gallery")
    shipped.copy_functions(folder)
    with (folder / "baml_src" / "generators.baml").open("a") as generators:
        generators.write("\n" + block("baml"))
    ran = subprocess.run([CLI, "generate"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (folder / "web" / "src" / "baml_client" / "types.ts").is_file()
    (folder / "node_modules").symlink_to(PROJECT / "node_modules")
    configuration = {"extends": str(PROJECT / "client" / "tsconfig.json"), "include": ["web/src"]}
    options = {"types": ["react"]}
    (folder / "tsconfig.json").write_text(json.dumps({**configuration, "compilerOptions": options}))
    return folder / "web" / "src"


def compile_errors(source: Path, expected: str) -> str:
    """The compiler's errors for a page with the gallery's lines."""
    imports, _, body = block("ts").partition("\n\n")
    (source / "page.ts").write_text(_PAGE.format(imports=imports, body=body.strip(), expected=expected))
    command = [node(), str(TSC), "--noEmit", "--project", str(source.parents[1])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


def test_the_generator_has_the_pinned_version() -> None:
    pinned = re.findall(r'version "(.*?)"', (PROJECT / "baml_src" / "generators.baml").read_text())
    assert re.findall(r'version "(.*?)"', block("baml")) == pinned


def test_the_typed_page_compiles(generated: Path) -> None:
    assert (
        compile_errors(generated, expected="// @ts-expect-error: a field may be missing before the reply is done") == ""
    )


def test_a_partial_result_is_not_assignable_to_the_class(generated: Path) -> None:
    errors = compile_errors(generated, expected="")
    assert re.search(r"page\.ts\(\d+,\d+\): error TS2322: ", errors), errors
    assert errors.count("error") == 1, errors


def test_the_page_imports_only_types_of_baml(generated: Path) -> None:
    types = (generated / "baml_client" / "types.ts").read_text()
    assert all(line.startswith("import type ") for line in re.findall(r"^import .*$", types, re.M))
    assert block("ts").startswith("import type { CodeReply } ")

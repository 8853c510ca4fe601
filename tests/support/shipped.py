"""The project without what its user has added: functions, handlers, migrations, a file `.env`.

The project's own tests run on this copy, so that they stay green whatever is added. What is added is tested in
`app_tests`.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import ROOT

FUNCTIONS = ("chat", "clients", "code", "compare", "describe", "generators", "research", "title", "types")
MIGRATIONS = (
    "20261129000001_baseline",
    "20261129000002_worker_functions",
    "20261129000012_claims_by_function",
    "20261129000022_history",
    "20261130000001_fair_shares",
    "20261130000002_probe",
    "20261130000003_long_messages",
    "20261130000004_functions",
    "20261130000005_validate_long_messages",
    "20261130000006_dispatch",
    "20261201000001_steps",
    "20261201000002_validate_steps",
    "20261201000003_catalogue",
    "20261201000004_attachments",
    "20261201000005_validate_models",
)
SCHEMAS = (
    *("tables", "bookkeeping", "announce", "probe", "limits", "guards", "jobs", "attachments", "orphans"),
    *("questions", "code_files", "fleet", "functions", "models", "claim", "dispatch", "beat", "steps", "finish"),
    *("bucket", "operators", "trim", "grants", "topics"),
)


def copy_functions(folder: Path) -> Path:
    """Copy the shipped functions to `folder/baml_src`; return that."""
    copied = folder / "baml_src"
    copied.mkdir(parents=True)
    for name in FUNCTIONS:
        shutil.copy(ROOT / "baml_src" / f"{name}.baml", copied)
    return copied


def copy_supabase(folder: Path) -> Path:
    """Copy the shipped schema and its configuration to `folder/supabase`; return that."""
    origin, copied = ROOT / "supabase", folder / "supabase"
    for part, names in (("migrations", MIGRATIONS), ("schemas", SCHEMAS)):
        (copied / part).mkdir(parents=True)
        for name in names:
            shutil.copy(origin / part / f"{name}.sql", copied / part)
    paths = "".join(f'    "./schemas/{name}.sql",\n' for name in SCHEMAS)
    config = (origin / "config.toml").read_text()
    config = re.sub(r"schema_paths = \[.*?\]", lambda _: f"schema_paths = [\n{paths}]", config, count=1, flags=re.S)
    (copied / "config.toml").write_text(config)
    (copied / "seed.sql").touch()
    return copied


@functools.cache
def project() -> Path:
    """A folder with the shipped functions, their generated client and the shipped schema. It ends with the process."""
    folder = Path(tempfile.mkdtemp(prefix="shipped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy_functions(folder)
    copy_supabase(folder)
    cli = Path(sys.executable).with_name("baml-cli")
    subprocess.run([cli, "generate"], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder

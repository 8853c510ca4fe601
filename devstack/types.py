"""`python -m devstack.types`: regenerates the client's TypeScript types with `supabase gen types`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from devstack import DevstackError, migrations
from devstack.stack import Stack

FILE = migrations.PROJECT / "client" / "src" / "database.types.ts"


async def generate(url: str, home: Path) -> str:
    """Return the types of the exposed schema of the database at `url`. Raises `DevstackError`."""
    return await migrations.cli("gen", "types", "--lang=typescript", "--schema", "public", url=url, home=home)


async def _main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with Stack(Path(folder), 0, fsync=False, progress=print) as stack:
            types = await generate(stack.environment["SUPABASE_DB_URL"], Path(folder) / "cli")
    FILE.write_text("// Made by `make types` from supabase/migrations.\n" + types)
    print(f"{FILE.relative_to(migrations.PROJECT)} is up to date")


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except DevstackError as error:
        sys.exit(f"devstack: {error}")

"""Supabase Storage for the devstack: buckets, and objects with their bytes in the data folder."""

from pathlib import Path

SCHEMA_SQL = (Path(__file__).parent / "schema.sql").read_text()

__all__ = ["SCHEMA_SQL"]

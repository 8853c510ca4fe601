"""Supabase Realtime for the devstack: broadcast, private channels, presence and postgres_changes.

Tested against recordings of Realtime v2.129.8. `protocol`, `binding`, `joining`, `payload` and `pgoutput` do no I/O;
`wal` streams committed changes; `access`, `rows`, `resolution` and `partitions` query Postgres; `broadcast`, `presence`
and `changes` route messages to channels; `channel` and `socket` handle one client; `server` wires everything together.
"""

from devstack.realtime.server import SCHEMA_SQL, Realtime

__all__ = ["SCHEMA_SQL", "Realtime"]

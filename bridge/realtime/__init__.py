"""Supabase Realtime. Nothing outside this package imports `realtime`.

connection   one connection that is never trusted: the first error ends it
supervisor   runs one session of a connection after another, without limit
listener     wake-ups and cancels, received on `bridge:inbox` and through postgres_changes
channels     session channels on one connection: joined when needed, left for others
publisher    deltas: from a reply's stream to its session's channel, within the quota
"""

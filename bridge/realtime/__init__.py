"""Supabase Realtime: wake-ups in, deltas out. Nothing outside this package imports `realtime`."""

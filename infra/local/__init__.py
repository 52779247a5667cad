"""The embedded stack, one file a process: real Postgres, Redis and @supabase/lite, and stand-ins for what no registry carries."""

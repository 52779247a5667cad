"""The embedded stack, one file a process: real Postgres, Redis and lite, stand-ins for what no registry carries."""

"""Stored runs carried out again, offline: the real loop between a recorded model, tools and ledger."""

"""The ledger: one file a noun = its record, its statuses, its verbs. Verbs are SQL functions."""

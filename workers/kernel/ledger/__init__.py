"""The ledger: one file a noun = its record, its statuses, its verbs. A verb is a SQL function called through a gateway."""

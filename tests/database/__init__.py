"""What the database promises by itself: policies, verbs, and SQL bound to a person."""

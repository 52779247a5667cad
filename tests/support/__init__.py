"""What several tests stand on: cloned databases and real people on the stack."""

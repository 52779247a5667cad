"""The operator: the one process with the project owner's connection. No agent tool runs here, and no model is asked."""

"""Where code that a model wrote runs: layers that keep it in, chosen by a probe, and never the bare machine."""

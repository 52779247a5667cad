"""The verbs that every sweep calls, a worker's and the scheduled one: each answers runs to ring for."""

SWEEPS = ("sweep_approvals", "sweep_runs")

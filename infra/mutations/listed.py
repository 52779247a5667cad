"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import (
    budgets,
    command_line,
    connections,
    consent,
    files,
    functions,
    jobs,
    logs,
    migrations,
    model_api,
    outbound,
    redis,
    runs,
    runs_told,
    sandbox,
    sources,
    topics,
    writes,
)

_SURFACES = (
    functions,
    runs,
    budgets,
    sources,
    consent,
    files,
    migrations,
    outbound,
    connections,
    redis,
    logs,
    model_api,
    sandbox,
    jobs,
    topics,
    writes,
    command_line,
    runs_told,
)

TARGETS = tuple(target for surface in _SURFACES for target in getattr(surface, "TARGETS", ()))
MUTATIONS = tuple(mutation for surface in _SURFACES for mutation in surface.MUTATIONS)

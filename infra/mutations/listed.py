"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import (
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
    sandbox,
    sources,
    topics,
    writes,
)

_SURFACES = (
    functions,
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
)

TARGETS = tuple(target for surface in _SURFACES for target in getattr(surface, "TARGETS", ()))
MUTATIONS = tuple(mutation for surface in _SURFACES for mutation in surface.MUTATIONS)

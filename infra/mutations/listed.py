"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, outbound, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS, *outbound.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *outbound.MUTATIONS)

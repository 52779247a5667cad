"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import connections, consent, functions, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS, *connections.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *connections.MUTATIONS)

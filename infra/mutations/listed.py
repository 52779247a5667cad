"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS)

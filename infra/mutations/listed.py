"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, sandbox, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *sandbox.MUTATIONS)

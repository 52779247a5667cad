"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, sources, writes

TARGETS = (*functions.TARGETS, *consent.TARGETS, *writes.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *writes.MUTATIONS)

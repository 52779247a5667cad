"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, files, functions, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS, *files.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *files.MUTATIONS)

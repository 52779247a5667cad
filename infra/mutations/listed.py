"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, jobs, sources, topics

TARGETS = (*functions.TARGETS, *consent.TARGETS, *jobs.TARGETS, *topics.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *jobs.MUTATIONS, *topics.MUTATIONS)

"""Every mutation that is written down, and every text of a SQL function among them."""

from infra.mutations import consent, functions, migrations, sources

TARGETS = (*functions.TARGETS, *consent.TARGETS, *migrations.TARGETS)
MUTATIONS = (*functions.MUTATIONS, *sources.MUTATIONS, *consent.MUTATIONS, *migrations.MUTATIONS)

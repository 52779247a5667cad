"""Here stands what breaks PAM on purpose: real runs with real effects, what may befall them, and what must hold after.

`outside` counts effects, `team` starts runs, `workers` and `parts` are what can be killed, `weather` draws faults from
a seed, `storm` lets them loose, `evidence` holds everything against invariants.sql. The sweep over every boundary of a
run, which needs a look into the database, is in tests/faults.
"""

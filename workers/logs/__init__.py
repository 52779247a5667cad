"""Here stands how logs are searched: one query of our own, one filter, and a store for each place where lines lie.

A store may narrow a search on the other side, but what it finds goes through `matching` once more: the organisation's
condition holds on our side, whatever the other side made of the query.
"""

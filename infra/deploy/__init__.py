"""How PAM gets to AWS: the bundles of the functions."""

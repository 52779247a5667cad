"""PAM's tools for people: the command line, the embedded stack, installation and bundles. Nothing of the product imports it."""

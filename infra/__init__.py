"""PAM's tools for people: command line, embedded stack, installation, bundles. Nothing of the product imports it."""

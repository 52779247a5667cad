"""Here stands what a model is to PAM: our words for it, its failures and prices, and one adapter a wire."""

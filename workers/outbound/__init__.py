"""The guarded HTTP client: the only way by which anything that an agent asks for leaves the house."""

"""Authentication methods: how the package obtains a token."""

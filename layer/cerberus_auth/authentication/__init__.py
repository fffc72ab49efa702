"""How a token is obtained."""

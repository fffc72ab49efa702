"""How containers of one role share what one of them fetched."""

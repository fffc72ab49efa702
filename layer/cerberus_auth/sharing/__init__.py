"""Sharing of tokens and secrets between the containers of one role."""

"""The cache of tokens and secrets: how old a value can get, one fetch at a time per key, one circuit breaker per Cerberus."""

"""Nothing: what an interpreter takes by itself, and with Lambda's runtime client."""

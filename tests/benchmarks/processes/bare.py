"""An empty module, to measure the interpreter alone and with Lambda's runtime client."""

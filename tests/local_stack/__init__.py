"""Cerberus, AWS and the Lambda runtime on one machine, for tests, the demo and local development."""

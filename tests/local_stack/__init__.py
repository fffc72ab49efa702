"""What surrounds a function, on one machine: Cerberus, AWS, the Lambda runtime. For tests, the demo and local work."""

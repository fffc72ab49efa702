"""Calls to KMS, STS, Lambda and DynamoDB, by one of two clients with the same results and errors."""

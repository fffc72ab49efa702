"""KMS, STS, Lambda and DynamoDB, in two lanes with the same results and the same errors."""

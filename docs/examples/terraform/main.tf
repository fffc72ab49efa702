# A function with the CerberusAuth layer. Copy the ARNs from the outputs of the stack that deployed the layers, or from the JSON
# file that `make publish` writes.

terraform {
  required_providers {
    aws     = { source = "hashicorp/aws", version = ">= 5.32" }
    archive = { source = "hashicorp/archive", version = ">= 2.4" }
  }
}

provider "aws" {
  region = "us-west-2"
}

variable "layer_arn" {
  type    = string
  default = "arn:aws:lambda:us-west-2:111111111111:layer:cerberus-auth:1"
}

variable "shared_cache_table" {
  type    = string
  default = "cerberus-auth-SharedCacheTable-EXAMPLE"
}

variable "shared_cache_key" {
  type    = string
  default = "arn:aws:kms:us-west-2:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab"
}

variable "shared_cache_policy" {
  type    = string
  default = "arn:aws:iam::111111111111:policy/cerberus-auth-SharedCachePolicy-EXAMPLE"
}

variable "cerberus_url" {
  type    = string
  default = "https://cerberus.example.com"
}

variable "cerberus_account" {
  type    = string
  default = "222222222222"
}

data "aws_partition" "current" {}

data "archive_file" "orders" {
  type        = "zip"
  source_dir  = "${path.module}/../orders"
  output_path = "${path.module}/orders.zip"
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "cerberus" {
  statement {
    actions   = ["kms:Decrypt"]
    resources = ["arn:${data.aws_partition.current.partition}:kms:*:${var.cerberus_account}:key/*"]
    condition {
      test     = "Null"
      variable = "kms:EncryptionContextKeys"
      values   = ["true"]
    }
  }
}

resource "aws_iam_role" "orders" {
  name_prefix        = "orders-"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "cerberus" {
  role   = aws_iam_role.orders.id
  policy = data.aws_iam_policy_document.cerberus.json
}

resource "aws_iam_role_policy_attachment" "orders" {
  for_each = {
    logs         = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    traces       = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AWSXRayDaemonWriteAccess"
    shared_cache = var.shared_cache_policy
  }
  role       = aws_iam_role.orders.name
  policy_arn = each.value
}

resource "aws_lambda_function" "orders" {
  function_name    = "orders"
  role             = aws_iam_role.orders.arn
  runtime          = "python3.13"
  architectures    = ["arm64"]
  handler          = "app.handler"
  filename         = data.archive_file.orders.output_path
  source_code_hash = data.archive_file.orders.output_base64sha256
  layers           = [var.layer_arn]
  timeout          = 15 # above the 10 s that authenticating can take (CERBERUS_TIMEOUT)
  memory_size      = 256
  publish          = true

  environment {
    variables = {
      CERBERUS_URL                = var.cerberus_url
      CERBERUS_KMS_ACCOUNT_ID     = var.cerberus_account
      CERBERUS_IAM_ROLE_ARN       = aws_iam_role.orders.arn
      CERBERUS_SHARED_CACHE_TABLE = var.shared_cache_table
      CERBERUS_SHARED_CACHE_KEY   = var.shared_cache_key
    }
  }

  logging_config {
    log_format = "JSON"
  }

  tracing_config {
    mode = "Active"
  }
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  function_name    = aws_lambda_function.orders.function_name
  function_version = aws_lambda_function.orders.version
}

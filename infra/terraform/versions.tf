terraform {
  required_version = ">= 1.5"
  required_providers {
    prefect = {
      source  = "prefecthq/prefect"
      version = "~> 2.0"
    }
  }
}

# PREFECT_API_URL and PREFECT_BASIC_AUTH_KEY (user:password, in base64) say which server, and who asks.
provider "prefect" {}

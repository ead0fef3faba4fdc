# What `python -m infra.bootstrap` makes, for those who keep their Prefect server in Terraform: from the same files. Use
# one of the two. Deployments, with the limit of each, stay in deployments/prefect.yaml.
#
#   cd infra/terraform && terraform init && terraform plan

locals {
  pools = {
    local   = jsondecode(file("${path.module}/../work-pools/local.json"))
    gpu     = merge(jsondecode(file("${path.module}/../work-pools/gpu.json")), { concurrency_limit = var.gpu_runs })
    gpu-job = merge(jsondecode(file("${path.module}/../kubernetes/gpu-job.json")), { concurrency_limit = var.gpu_job_runs })
    cpu-job = jsondecode(file("${path.module}/../kubernetes/cpu-job.json"))
  }
  automations = { for each in yamldecode(file("${path.module}/../automations.yaml")).automations : each.name => each }
}

resource "prefect_work_pool" "pool" {
  for_each          = local.pools
  name              = each.key
  type              = each.value.type
  description       = each.value.description
  concurrency_limit = each.value.concurrency_limit
  base_job_template = jsonencode(each.value.base_job_template)
}

resource "prefect_work_queue" "urgent" {
  name              = "urgent"
  work_pool_name    = prefect_work_pool.pool["gpu"].name
  description       = "Runs that go before the others of the pool."
  priority          = 1
  concurrency_limit = var.urgent_runs
}

resource "prefect_automation" "automation" {
  for_each    = local.automations
  name        = each.key
  description = each.value.description
  enabled     = true
  trigger = {
    event = {
      posture   = each.value.trigger.posture
      match     = jsonencode(each.value.trigger.match)
      for_each  = each.value.trigger.for_each
      after     = each.value.trigger.after
      expect    = each.value.trigger.expect
      threshold = each.value.trigger.threshold
      within    = coalesce(var.silent_after_s, each.value.trigger.within)
    }
  }
  actions = each.value.actions
}

resource "prefect_variable" "setting" {
  for_each = var.settings
  name     = each.key
  value    = each.value
}

variable "gpu_runs" {
  description = "Runs at a time in the pool gpu: one for each machine with GPUs."
  type        = number
  default     = 1
  validation {
    condition     = var.gpu_runs >= 1
    error_message = "At least one run has to be allowed."
  }
}

variable "gpu_job_runs" {
  description = "Runs at a time in the pool gpu-job: Kubernetes jobs, each with the GPUs that its job asks for."
  type        = number
  default     = 4
}

variable "urgent_runs" {
  description = "Runs at a time of the queue urgent, which is served before the others of the pool gpu."
  type        = number
  default     = 1
}

variable "silent_after_s" {
  description = "Seconds without a heartbeat after which a run has crashed; null: as infra/automations.yaml says."
  type        = number
  default     = null
}

variable "settings" {
  description = "Prefect variables that flows and deployments may read. No secrets: they are not encrypted."
  type        = map(string)
  default     = {}
}

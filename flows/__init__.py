"""The pipeline on Prefect: the table of contents that chains ``ununennium``; no numerics live here."""

from ununennium.redaction import redact_logs

redact_logs()  # what a flow logs is kept by the server, where more people read it than know the secrets

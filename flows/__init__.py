"""The pipeline on Prefect: the table of contents that chains ``ununennium``; no numerics live here."""

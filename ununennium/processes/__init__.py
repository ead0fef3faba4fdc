"""Child processes: run one to its end, end with the parent, pass errors on. No run is known here."""

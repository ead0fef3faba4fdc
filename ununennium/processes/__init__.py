"""Child processes of the library."""

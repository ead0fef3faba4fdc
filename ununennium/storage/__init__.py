"""Storage of immutable objects: a folder on a disk, in memory, or on any fsspec filesystem.

``base`` has the protocol, ``open`` opens it by URL, ``patience`` waits for storage that cannot answer now.
"""

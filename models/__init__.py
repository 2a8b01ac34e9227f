"""Networks, their registry, the input specification, geometry, feature capture and checkpoint files.

Importing this package imports neither torch nor any network; only its modules do.
"""

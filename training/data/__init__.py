"""Data sets by name or folder, in memory or streamed, and their splits."""

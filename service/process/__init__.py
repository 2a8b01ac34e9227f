"""The server as a process, and its workers."""

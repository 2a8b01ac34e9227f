"""From a checkpoint to an artifact: the deployable graph, its files, their verification, and the engines that run them.

The server imports only `artifact`, `golden`, `cuda` and the `engine` modules of this package; none of them needs torch
until the TorchScript engine is opened.
"""

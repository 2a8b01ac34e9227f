"""The verb `convscope train`."""

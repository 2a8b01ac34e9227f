"""The BentoML service: HTTP routes, batcher, inspection, the web page, and the commands that use them."""

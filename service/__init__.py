"""The BentoML service, its HTTP routes and batcher, inspection, the web page, and the commands that use them."""

"""The HTTP server: an API of what a checkpoint does, and a web page that uses it."""

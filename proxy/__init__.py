"""The reverse proxy: sends requests to the workers that are fit to serve, and says which those are."""

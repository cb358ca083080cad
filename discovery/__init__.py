"""Who is alive: the only room that knows Consul. `discovery.addresses.open_registry` is its door."""

"""The one way out of a sandbox: a gate for each session, and the proxy behind all gates."""

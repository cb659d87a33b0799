"""The contract on the wire, through the running service."""

"""Compatibility suite: the vendor's published SDKs, unmodified, against a running server."""

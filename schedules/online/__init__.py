"""Streaming forms of reductions, derived from plain definitions by their structure."""

"""Shards of equal predicted cost, embedded part by part."""

"""The demo: a small synthetic release in UniProt's layout, whose protein families are known."""

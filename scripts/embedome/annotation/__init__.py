"""Labels carried over from annotated proteins to their nearest neighbours."""

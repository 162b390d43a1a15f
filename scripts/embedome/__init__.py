"""embedome: from a protein sequence database to a verified table of language-model embeddings."""

__version__ = "0.2.0.dev0"

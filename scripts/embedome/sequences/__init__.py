"""Sequence files and what is in them: FASTA, UniRef XML, headers, records, digests."""

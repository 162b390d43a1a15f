"""Lines of GAF files."""


def gaf_line(name, qualifier, term, evidence, columns=17):
    """A line with what matters; the rest of it is made up."""
    fields = ["UniProtKB", name, "G", qualifier, term, "PMID:1", evidence, "", "F", "Protein 'a", 'x"y', "protein"]
    return "\t".join([*fields, "taxon:9606", "20240101", "UniProt", "", ""][:columns])

"""Where sequence files come from: a release, an archive, an address, the demo."""

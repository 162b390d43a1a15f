"""Pretraining on data sets the workflow built: recipes, objectives, the store of residues, the loop, checkpoints."""

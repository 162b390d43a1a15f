"""Models on disk and as modules: registry, directories, tokenizers, checkpoints, encoders, NeMo archives."""

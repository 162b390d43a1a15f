"""NeMo archives: converted to Hugging Face directories, and written from them."""

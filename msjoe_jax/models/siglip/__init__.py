"""SigLIP and SigLIP 2, as Hugging Face publishes them."""

"""2D latent diffusion model used as the prior, and a scorer that compares images with texts."""

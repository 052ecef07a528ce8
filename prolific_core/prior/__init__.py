"""The prior, which is a 2D latent diffusion model, and a scorer that compares images with texts."""

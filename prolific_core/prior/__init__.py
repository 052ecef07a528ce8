"""The prior: a 2D latent diffusion model, and the scorer that compares its images with texts."""

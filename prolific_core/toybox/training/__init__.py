"""Training of the Toybox models: autoencoder, diffusion model, scorer and classifier."""

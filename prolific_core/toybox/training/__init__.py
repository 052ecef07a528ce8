"""Training of the Toybox models: autoencoder, text encoder, diffusion model, scorer and classifier."""

"""The zoo's own tiny base models, trained from nothing on the demo world: a CLIP, an autoencoder, a text-to-image UNet."""

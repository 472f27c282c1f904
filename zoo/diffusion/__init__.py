"""What the diffusion methods share: base models in diffusers' folder format, prompts, latents and their cache, samplers."""

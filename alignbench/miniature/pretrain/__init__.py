"""How the shipped networks of the shapes world are made: data, tokenizers, autoencoder, text encoders, denoisers, rewards."""

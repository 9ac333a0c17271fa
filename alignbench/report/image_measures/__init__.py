"""How the images of methods differ from those of base, whatever evaluators say of them."""

"""Training on images that the policy itself makes: how they are sampled, scored and compared with one another."""

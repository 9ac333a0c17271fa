"""What was typed, checked before anything heavy loads, and what it builds."""

import os

from omegaconf import OmegaConf

from alignbench.configuration.sections import offer_defaults

OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)  # where Hydra itself reads a path
offer_defaults()  # whoever composes the tree of conf has imported something of this package

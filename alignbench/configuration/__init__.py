"""What was typed, checked before anything heavy loads, and what it builds."""

from alignbench.configuration.sections import offer_defaults

offer_defaults()  # whoever composes the tree of conf has imported something of this package

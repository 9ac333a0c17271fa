"""The networks of evaluators, their published weights, and how pictures become their inputs."""

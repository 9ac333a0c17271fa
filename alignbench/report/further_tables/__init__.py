"""Tables that only some results have: base at other guidance, and questions of each kind."""

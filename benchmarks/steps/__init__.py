"""Time training steps of the program against plain steps, in the program's own loop, and the waits around them."""

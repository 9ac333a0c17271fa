"""Images that exist already: folders and lists of them."""

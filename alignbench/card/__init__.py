"""How far is a judge to be trusted: accuracy on human pairs, how far it can be raised, and what it adds to others?"""

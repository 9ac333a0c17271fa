"""What do judge cards say, as pictures, as text, and beside the evaluators of a table?"""

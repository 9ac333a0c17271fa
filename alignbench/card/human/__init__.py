"""Which images did people judge, and how?"""

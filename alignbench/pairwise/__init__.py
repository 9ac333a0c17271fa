"""What is a comparer, and what do its answers in both orders come to?"""

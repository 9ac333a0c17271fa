"""What do people and comparers prefer, pair by pair?"""

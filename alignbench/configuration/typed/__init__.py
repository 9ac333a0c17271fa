"""What was typed: which words of a command are understood, which key was meant, and what values stand for."""

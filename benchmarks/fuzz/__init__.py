"""Damaged and hostile input by the thousand: every reader must give a right result or one sentence."""

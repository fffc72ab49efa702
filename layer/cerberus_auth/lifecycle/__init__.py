"""Reactions to Lambda and the operating system: prefetch, fork, snapshot, freeze and renewal."""

"""Wan2.1 with OmniAvatar's audio adapter: a large open video teacher (paper, sec. 3.3)."""

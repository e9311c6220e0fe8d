"""Where accepted mail lives: one protocol (`base`), one package per database."""

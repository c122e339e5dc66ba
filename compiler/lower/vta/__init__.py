"""What of an integer graph runs on VTA: reading layers, placing them, cutting regions out."""

"""The words of replies: dialects, and the files that hold them."""

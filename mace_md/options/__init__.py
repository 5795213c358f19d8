"""Options declared once: how they are declared, read from flags and files, and written as text."""

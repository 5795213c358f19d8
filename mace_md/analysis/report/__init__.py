"""The page of an analysis: one HTML file that needs no network."""

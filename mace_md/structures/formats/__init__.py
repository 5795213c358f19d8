"""One file format a module: a file in, `Contents` out; what the reader assumed goes into the notes."""

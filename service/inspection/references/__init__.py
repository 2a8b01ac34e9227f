"""Reference images: what excites each channel most in a data set, and what is normal for each layer."""

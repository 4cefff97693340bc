"""The modules that can stand at a site."""

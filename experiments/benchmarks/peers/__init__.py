"""Other splatters behind one small interface, each imported only where it is installed."""

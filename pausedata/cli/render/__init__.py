"""What people look at in a terminal; with the command line, the only part that knows Rich."""

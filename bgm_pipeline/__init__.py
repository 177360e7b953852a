"""From a broadcast file to the seconds of music in it, and that music, freed from the speech over it."""

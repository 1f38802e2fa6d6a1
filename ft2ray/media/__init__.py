"""Pictures, sound and faces: what comes in is checked here, what goes out is written here."""

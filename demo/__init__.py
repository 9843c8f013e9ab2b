"""One machine, no account: an emulated org, real captures, Azurite, and the proof that each event was landed once."""

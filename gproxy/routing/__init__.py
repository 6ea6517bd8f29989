"""Where a request goes: the name a client sent to a provider, a model and a credential."""

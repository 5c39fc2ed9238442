"""Providers: what sells machines. The contract is `protocol`; each folder is one provider and its `translate`."""

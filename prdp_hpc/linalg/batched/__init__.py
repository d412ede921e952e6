"""Solves of whole batches in torch tensors, on any device."""

"""Whether the log can be believed: digests, the Merkle tree over it, signed heads, and proofs for others."""
